# What people may who launch quarters and look at them, for their group or role in IAM. Who builds or changes what
# Terraform holds needs an administrator's rights instead.

locals {
  ec2           = "arn:aws:ec2:${var.region}:${var.account}"
  session       = "arn:aws:ssm:${var.region}:${var.account}:session/*"
  template      = "${local.ec2}:launch-template/${var.launch_template_id}"
  from_template = { ArnLike = { "ec2:LaunchTemplate" = local.template } }
  ours          = { "aws:ResourceTag/Project" = var.tags.Project, "aws:ResourceTag/Environment" = var.tags.Environment }
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
      # EC2 asks for a right to each thing that a request makes or uses, and all must be given.
      {
        Sid       = "RequestTheBoxOfTheTemplate"
        Effect    = "Allow"
        Action    = "ec2:RunInstances"
        Resource  = concat([for id in var.subnet_ids : "${local.ec2}:subnet/${id}"], [local.template, "${local.ec2}:network-interface/*"])
        Condition = local.from_template
      },
      {
        Sid       = "WithItsImageAndSecurityGroup"
        Effect    = "Allow"
        Action    = "ec2:RunInstances"
        Resource  = ["arn:aws:ec2:${var.region}::image/*", "${local.ec2}:security-group/${var.security_group_id}"]
        Condition = merge(local.from_template, { Bool = { "ec2:IsLaunchTemplateResource" = "true" } })
      },
      {
        Sid      = "OfOneOfOurSizesOnSpotWithOurTags"
        Effect   = "Allow"
        Action   = "ec2:RunInstances"
        Resource = "${local.ec2}:instance/*"
        Condition = merge(local.from_template, {
          StringEquals = {
            "ec2:InstanceType"           = var.instance_types
            "ec2:InstanceMarketType"     = "spot"
            "aws:RequestTag/Project"     = var.tags.Project
            "aws:RequestTag/Environment" = var.tags.Environment
          }
        })
      },
      {
        Sid       = "WithADiskNoLargerThanItsOwn"
        Effect    = "Allow"
        Action    = "ec2:RunInstances"
        Resource  = "${local.ec2}:volume/*"
        Condition = merge(local.from_template, { NumericLessThanEquals = { "ec2:VolumeSize" = tostring(var.disk_gb) } })
      },
      {
        # AWS documents no condition for it; without the rights above it is worth nothing.
        Sid      = "AndASpotRequest"
        Effect   = "Allow"
        Action   = "ec2:RunInstances"
        Resource = "${local.ec2}:spot-instances-request/*"
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
        Sid      = "TalkInASession"
        Effect   = "Allow"
        Action   = "ssmmessages:OpenDataChannel"
        Resource = local.session
      },
      {
        Sid       = "EndSessionsOfOnesOwn"
        Effect    = "Allow"
        Action    = ["ssm:ResumeSession", "ssm:TerminateSession"]
        Resource  = local.session
        Condition = { StringLike = { "ssm:resourceTag/aws:ssmmessages:session-id" = "$${aws:userid}" } }
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
