output "bucket" { value = aws_s3_bucket.main.bucket }
output "repository_url" { value = aws_ecr_repository.main.repository_url }
output "repository_arn" { value = aws_ecr_repository.main.arn }
