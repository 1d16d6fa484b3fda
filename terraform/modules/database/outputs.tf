output "identifier" { value = aws_db_instance.main.identifier }
output "arn" { value = aws_db_instance.main.arn }
output "host" { value = aws_db_instance.main.address }
output "secret_arn" { value = aws_db_instance.main.master_user_secret[0].secret_arn }
