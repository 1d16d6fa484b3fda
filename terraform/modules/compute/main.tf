# The box: what it is (launch template), what it may (role), what it does (boot/). The request itself is made by
# scripts/launch_pipeline.sh: a box ends by itself, and a resource that vanishes would make every plan propose a new one.

# Decision 100: the box is requested by a script, because it ends by itself.
locals {
  key_parameter = "/${var.name}/llm-api-key"
  bucket_arn    = "arn:aws:s3:::${var.bucket}"
  boot          = "${path.module}/boot"
  disk_gb       = 100

  # Read by the programs of boot/. Names only: secrets are fetched where they are used.
  box_env = <<-EOT
    AWS_DEFAULT_REGION=${var.region}
    IMAGE=${var.image}
    BUCKET=${var.bucket}
    DATABASE=${var.database.identifier}
    DATABASE_HOST=${var.database.host}
    DATABASE_SECRET=${var.database.secret_arn}
    LOG_GROUP=${aws_cloudwatch_log_group.box.name}
    LLM_KEY_PARAMETER=${local.key_parameter}
    LLM_MODEL=${var.llm_model}
    IDLE_MINUTES=${var.idle_minutes}
  EOT

  cloud_config = {
    write_files = concat(
      [{ path = "/etc/ftm/box.env", content = local.box_env, permissions = "0644" }],
      [for name in fileset(local.boot, "bin/*") :
      { path = "/usr/local/${name}", content = file("${local.boot}/${name}"), permissions = "0755" }],
      [for name in fileset(local.boot, "units/*") :
      { path = "/etc/systemd/system/${basename(name)}", content = file("${local.boot}/${name}"), permissions = "0644" }],
    )
    runcmd = [
      # First of all, and by the machine itself: whatever fails below, the box does not outlive this.
      ["shutdown", "-P", "+${var.most_hours * 60}"],
      ["systemctl", "daemon-reload"],
      ["systemctl", "start", "--no-block", "ftm-spot-notice.service", "ftm-watch.timer", "ftm-quarter.service"],
    ]
  }
}

# Amazon's image with the NVIDIA driver, Docker with GPU support, the AWS CLI and the SSM agent: nothing is installed
# at boot. The newest one, because old ones are withdrawn.
data "aws_ami" "deep_learning" {
  most_recent = true
  owners      = [var.ami_owner]

  filter {
    name   = "name"
    values = ["Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"]
  }
  filter {
    name   = "architecture"
    values = ["x86_64"]
  }
}

# What the programs print outlives the box here.
resource "aws_cloudwatch_log_group" "box" {
  #checkov:skip=CKV_AWS_158:CloudWatch's own key encrypts free of charge; see the bucket.
  #checkov:skip=CKV_AWS_338:A month is enough to find out why a quarter failed; what was done is in the database for ever.
  name              = "/${var.name}"
  retention_in_days = 30
}

# What the box is to AWS.
resource "aws_iam_role" "box" {
  name = "${var.name}-box"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

# What it may, and nothing else: read its transcripts and secrets, write its exports and logs, pull its image, stop its
# database, be reached through SSM. It cannot delete, start or change anything, and sees nobody else's.
resource "aws_iam_role_policy" "box" {
  #checkov:skip=CKV_AWS_355:ecr:GetAuthorizationToken and SSM's channels know no resources; the statements are named for that.
  #checkov:skip=CKV_AWS_290:As above: AWS lets these actions be granted for everything only.
  name = "box"
  role = aws_iam_role.box.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "FindTranscripts"
        Effect    = "Allow"
        Action    = "s3:ListBucket"
        Resource  = local.bucket_arn
        Condition = { StringLike = { "s3:prefix" = "transcripts/*" } }
      },
      {
        Sid      = "ReadTranscripts"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = "${local.bucket_arn}/transcripts/*"
      },
      {
        Sid      = "WriteExports"
        Effect   = "Allow"
        Action   = "s3:PutObject"
        Resource = "${local.bucket_arn}/exports/*"
      },
      {
        Sid      = "ReadPasswordOfDatabase"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.database.secret_arn
      },
      {
        Sid      = "ReadKeyOfLanguageModel"
        Effect   = "Allow"
        Action   = "ssm:GetParameter"
        Resource = "arn:aws:ssm:${var.region}:${var.account}:parameter${local.key_parameter}"
      },
      {
        Sid      = "StopDatabaseWhenDone"
        Effect   = "Allow"
        Action   = "rds:StopDBInstance"
        Resource = var.database.arn
      },
      {
        Sid      = "WriteLogs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.box.arn}:*"
      },
      {
        Sid      = "PullImage"
        Effect   = "Allow"
        Action   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = var.repository_arn
      },
      {
        Sid      = "LogInToRegistryWhichKnowsNoResource"
        Effect   = "Allow"
        Action   = "ecr:GetAuthorizationToken"
        Resource = "*"
      },
      {
        # Less than AmazonSSMManagedInstanceCore, which may read every parameter of the account.
        Sid    = "BeReachedThroughSsmWhichKnowsNoResource"
        Effect = "Allow"
        Action = [
          "ssm:UpdateInstanceInformation",
          "ssmmessages:CreateControlChannel",
          "ssmmessages:CreateDataChannel",
          "ssmmessages:OpenControlChannel",
          "ssmmessages:OpenDataChannel",
        ]
        Resource = "*"
      },
    ]
  })
}

# How an instance gets a role.
resource "aws_iam_instance_profile" "box" {
  name = "${var.name}-box"
  role = aws_iam_role.box.name
}

# All that a box is, except its size, zone and quarter, which the script gives. The template costs nothing.
resource "aws_launch_template" "box" {
  name                   = "${var.name}-box"
  image_id               = data.aws_ami.deep_learning.id
  instance_type          = var.instance_type
  vpc_security_group_ids = var.security_group_ids
  user_data              = base64gzip("#cloud-config\n${yamlencode(local.cloud_config)}")
  update_default_version = true

  # No key_name: there is no SSH. People come in through SSM, which knows who they are.

  # Powered off from inside means gone, with its disk: a stopped box would still cost its disk.
  instance_initiated_shutdown_behavior = "terminate"

  iam_instance_profile {
    arn = aws_iam_instance_profile.box.arn
  }

  # A third of the price. "one-time": a persistent request would start boxes again after the quarter is done.
  instance_market_options {
    market_type = "spot"
    spot_options {
      spot_instance_type             = "one-time"
      instance_interruption_behavior = "terminate"
    }
  }

  # The image (some 10 GB unpacked), Docker's copies and the box's scratch space. All results are in the database.
  block_device_mappings {
    device_name = "/dev/sda1"
    ebs {
      volume_type           = "gp3"
      volume_size           = local.disk_gb
      encrypted             = true
      delete_on_termination = true
    }
  }

  # Tokens are required, so that a request that somebody tricks a program into cannot read the role's credentials. The
  # containers use the box's network, so one hop is enough. The quarter is a tag, which the box reads.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "enabled"
  }

  # What is made from the template is not made by Terraform, so it does not get the provider's tags by itself.
  dynamic "tag_specifications" {
    for_each = ["instance", "volume", "network-interface", "spot-instances-request"]
    content {
      resource_type = tag_specifications.value
      tags          = merge(var.tags, { Name = "${var.name}-box" })
    }
  }
}
