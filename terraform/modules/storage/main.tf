# One bucket for what goes in (transcripts/) and what comes out (exports/), one repository for the image.

# Transcripts are licensed and reports are unpublished: everything below keeps them private.
resource "aws_s3_bucket" "main" {
  #checkov:skip=CKV_AWS_18:Access logs need a second bucket; CloudTrail can be switched on where a licence asks for it.
  #checkov:skip=CKV_AWS_144:Transcripts can be fetched again from their vendor, reports be made again.
  #checkov:skip=CKV_AWS_145:S3's own key encrypts free of charge; a key of ours costs a dollar a month and guards against nobody new.
  #checkov:skip=CKV2_AWS_62:Nothing here waits for new objects; a person launches a quarter.
  bucket        = "${var.name}-${var.account}"
  force_destroy = !var.protect
}

# No rule or mistake of later can make an object public.
resource "aws_s3_bucket_public_access_block" "main" {
  bucket                  = aws_s3_bucket.main.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# A transcript file that was overwritten by mistake can be had back.
resource "aws_s3_bucket_versioning" "main" {
  bucket = aws_s3_bucket.main.id

  versioning_configuration {
    status = "Enabled"
  }
}

# S3 does so by itself since 2023; said here so that it can be seen and is put right if somebody changes it.
resource "aws_s3_bucket_server_side_encryption_configuration" "main" {
  bucket = aws_s3_bucket.main.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

# What nobody reads any more gets cheaper or goes.
resource "aws_s3_bucket_lifecycle_configuration" "main" {
  bucket     = aws_s3_bucket.main.id
  depends_on = [aws_s3_bucket_versioning.main]

  rule {
    id     = "transcripts are read once a quarter"
    status = "Enabled"
    filter {
      prefix = "transcripts/"
    }
    transition {
      days          = 30
      storage_class = "STANDARD_IA"
    }
  }

  rule {
    id     = "what was replaced, and what broke off"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = 90
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

# Without it an old client could send a transcript in clear text.
resource "aws_s3_bucket_policy" "main" {
  bucket     = aws_s3_bucket.main.id
  depends_on = [aws_s3_bucket_public_access_block.main]

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "EncryptedConnectionsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.main.arn, "${aws_s3_bucket.main.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

# The box pulls its image from here. A tag always means the same image, so that a result can be traced to its code.
resource "aws_ecr_repository" "main" {
  #checkov:skip=CKV_AWS_136:ECR's own key encrypts free of charge; see the bucket.
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.protect

  image_scanning_configuration {
    scan_on_push = true
  }
}

# An image with CUDA has several GB, ten cents a GB and month.
resource "aws_ecr_lifecycle_policy" "main" {
  repository = aws_ecr_repository.main.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "the last three images"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 3 }
      action       = { type = "expire" }
    }]
  })
}
