# What people may who launch quarters and look at them, for their group or role in IAM. Who builds or changes what
# Terraform holds needs an administrator's rights instead.

locals {
  ec2  = "arn:aws:ec2:${var.region}:${var.account}"
  ours = { "aws:ResourceTag/Project" = var.tags.Project, "aws:ResourceTag/Environment" = var.tags.Environment }
}

# A policy of its own that hangs on nobody: who the people are is not for this code to know.
resource "aws_iam_policy" "operator" {
  #checkov:skip=CKV_AWS_355:Lists of EC2, its prices and Cost Explorer know no resources; the statement is named for that.
  #checkov:skip=CKV_AWS_290:As above; what changes something is bound to the template, our tags or our names.
  name        = "${var.name}-operator"
  description = "launch, follow, stop and read quarters of ${var.name}"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "LookWhichKnowsNoResource"
        Effect   = "Allow"
        Action   = ["ec2:DescribeInstances", "ec2:DescribeSpotPriceHistory", "ce:GetCostAndUsage"]
        Resource = "*"
      },
      {
        # Nothing but the box: another template, subnet or security group is refused.
        Sid    = "RequestTheBox"
        Effect = "Allow"
        Action = "ec2:RunInstances"
        Resource = concat(
          [for kind in ["instance", "volume", "network-interface", "spot-instances-request"] : "${local.ec2}:${kind}/*"],
          [for id in var.subnet_ids : "${local.ec2}:subnet/${id}"],
          ["${local.ec2}:security-group/${var.security_group_id}", "arn:aws:ec2:${var.region}::image/*"],
          ["${local.ec2}:launch-template/${var.launch_template_id}"],
        )
        Condition = { ArnLike = { "ec2:LaunchTemplate" = "${local.ec2}:launch-template/${var.launch_template_id}" } }
      },
      {
        # Tags come with the request, and cannot be changed afterwards.
        Sid    = "TagWhatIsRequested"
        Effect = "Allow"
        Action = "ec2:CreateTags"
        Resource = [
          for kind in ["instance", "volume", "network-interface", "spot-instances-request"] : "${local.ec2}:${kind}/*"
        ]
        Condition = { StringEquals = { "ec2:CreateAction" = "RunInstances" } }
      },
      {
        Sid       = "GiveTheBoxItsRole"
        Effect    = "Allow"
        Action    = "iam:PassRole"
        Resource  = var.box_role_arn
        Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
      },
      {
        # AWS makes this role of its own with the first spot machine of an account.
        Sid       = "FirstSpotMachineOfTheAccount"
        Effect    = "Allow"
        Action    = "iam:CreateServiceLinkedRole"
        Resource  = "arn:aws:iam::${var.account}:role/aws-service-role/spot.amazonaws.com/*"
        Condition = { StringEquals = { "iam:AWSServiceName" = "spot.amazonaws.com" } }
      },
      {
        Sid       = "EndTheBox"
        Effect    = "Allow"
        Action    = "ec2:TerminateInstances"
        Resource  = "${local.ec2}:instance/*"
        Condition = { StringEquals = local.ours }
      },
      {
        Sid      = "StartAndStopTheDatabase"
        Effect   = "Allow"
        Action   = ["rds:DescribeDBInstances", "rds:StartDBInstance", "rds:StopDBInstance"]
        Resource = var.database.arn
      },
      {
        Sid       = "SeeWhatIsInTheBucket"
        Effect    = "Allow"
        Action    = "s3:ListBucket"
        Resource  = "arn:aws:s3:::${var.bucket}"
        Condition = { StringLike = { "s3:prefix" = ["", "transcripts/*", "exports/*"] } }
      },
      {
        Sid      = "BringTranscripts"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject"]
        Resource = "arn:aws:s3:::${var.bucket}/transcripts/*"
      },
      {
        Sid      = "ReadReports"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = "arn:aws:s3:::${var.bucket}/exports/*"
      },
      {
        Sid       = "ReachTheBox"
        Effect    = "Allow"
        Action    = "ssm:StartSession"
        Resource  = "${local.ec2}:instance/*"
        Condition = { StringEquals = local.ours }
      },
      {
        Sid    = "ReachItInTheseWays"
        Effect = "Allow"
        Action = "ssm:StartSession"
        Resource = [
          "arn:aws:ssm:${var.region}::document/AWS-StartPortForwardingSession",
          "arn:aws:ssm:${var.region}::document/AWS-StartPortForwardingSessionToRemoteHost",
          "arn:aws:ssm:${var.region}:${var.account}:document/SSM-SessionManagerRunShell",
        ]
      },
      {
        Sid    = "EndSessionsOfOnesOwn"
        Effect = "Allow"
        Action = ["ssm:ResumeSession", "ssm:TerminateSession"]
        # Named after a user of IAM, or after whoever has taken a role.
        Resource = [for who in ["username", "userid"] : "arn:aws:ssm:${var.region}:${var.account}:session/$${aws:${who}}-*"]
      },
      {
        Sid      = "ReadPasswordOfDatabase"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.database.secret_arn
      },
      {
        Sid      = "ReadLogOfTheBox"
        Effect   = "Allow"
        Action   = ["logs:DescribeLogStreams", "logs:FilterLogEvents", "logs:GetLogEvents"]
        Resource = "${var.log_group_arn}:*"
      },
    ]
  })
}
