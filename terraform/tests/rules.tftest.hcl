# What must hold whatever is changed, without an account: the provider is a mock, so this runs offline in seconds.
#   terraform -chdir=terraform test

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      arn                = "arn:aws:rds:us-east-1:123456789012:db:ftm"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1" }]
    }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/ftm" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/ftm" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::ftm" }
  }
  mock_resource "aws_ecr_repository" {
    defaults = {
      arn            = "arn:aws:ecr:us-east-1:123456789012:repository/ftm"
      repository_url = "123456789012.dkr.ecr.us-east-1.amazonaws.com/ftm"
    }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/ftm" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:us-east-1:123456789012:log-group:/ftm" }
  }
}

variables {
  environment    = "test"
  protect        = false
  backup_days    = 1
  database_gb    = { first = 20, most = 100 }
  image_tag      = "0.1.0"
  budget_dollars = 30
  alarm_email    = "nobody@example.org"
}

run "nobody_gets_in_except_the_box_to_the_database" {
  module {
    source = "./modules/networking"
  }
  variables {
    name         = "ftm-test"
    region       = "us-east-1"
    zone_letters = ["a", "b", "c"]
  }

  assert {
    condition     = length(aws_security_group.box.ingress) == 0
    error_message = "The box has no way in."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.database.referenced_security_group_id == aws_security_group.box.id && aws_vpc_security_group_ingress_rule.database.cidr_ipv4 == null
    error_message = "The database is reached from the box alone."
  }
  assert {
    condition     = alltrue([for association in aws_route_table_association.public : !contains(aws_subnet.database[*].id, association.subnet_id)])
    error_message = "The database's subnets have no route to the internet."
  }
}

run "the_database_can_be_stopped_is_encrypted_and_keeps_its_password_to_itself" {
  module {
    source = "./modules/database"
  }
  variables {
    name               = "ftm-test"
    class              = "db.t4g.large"
    gb                 = { first = 20, most = 100 }
    subnet_ids         = ["subnet-1", "subnet-2"]
    security_group_ids = ["sg-1"]
    protect            = true
    backup_days        = 14
  }

  assert {
    condition     = aws_db_instance.main.engine == "postgres" && aws_db_instance.main.multi_az != true
    error_message = "Aurora and its kin cannot be stopped like one server."
  }
  assert {
    condition     = aws_db_instance.main.storage_encrypted && !aws_db_instance.main.publicly_accessible
    error_message = "The data is encrypted and in no public network."
  }
  assert {
    condition     = aws_db_instance.main.manage_master_user_password && aws_db_instance.main.password == null
    error_message = "RDS makes the password, so that no state holds it."
  }
  assert {
    condition     = tonumber(split(".", aws_db_instance.main.engine_version)[0]) >= 17 && aws_db_parameter_group.main.family == "postgres17"
    error_message = "pgvector 0.8.0 or newer comes with every 17.x of RDS."
  }
  assert {
    condition     = aws_db_instance.main.deletion_protection && !aws_db_instance.main.skip_final_snapshot && aws_db_instance.main.backup_retention_period == 14
    error_message = "Protected data cannot be destroyed by mistake, and is backed up."
  }
}

run "the_box_is_spot_ends_for_good_and_may_little" {
  module {
    source = "./modules/compute"
  }
  variables {
    name               = "ftm-test"
    region             = "us-east-1"
    account            = "123456789012"
    tags               = { Project = "ftm", Environment = "test" }
    ami_owner          = "amazon"
    instance_type      = "g4dn.2xlarge"
    security_group_ids = ["sg-1"]
    image              = "123456789012.dkr.ecr.us-east-1.amazonaws.com/ftm-test:0.1.0"
    repository_arn     = "arn:aws:ecr:us-east-1:123456789012:repository/ftm-test"
    bucket             = "ftm-test"
    database           = { identifier = "ftm-test", arn = "arn:aws:rds:us-east-1:123456789012:db:ftm-test", host = "ftm-test.rds", secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1" }
    idle_minutes       = 10
    most_hours         = 6
    llm_model          = ""
  }

  assert {
    condition     = aws_launch_template.box.instance_initiated_shutdown_behavior == "terminate" && aws_launch_template.box.instance_market_options[0].spot_options[0].spot_instance_type == "one-time"
    error_message = "A box that powers off is gone, and is not requested again."
  }
  assert {
    condition     = aws_launch_template.box.key_name == null && aws_launch_template.box.metadata_options[0].http_tokens == "required"
    error_message = "No key pair; metadata only with a token."
  }
  assert {
    condition     = alltrue([for tags in aws_launch_template.box.tag_specifications : tags.tags["Project"] == "ftm" && tags.tags["Environment"] == "test"])
    error_message = "Everything that the template makes can be found on the bill."
  }
  assert {
    condition     = length(base64decode(base64encode(aws_launch_template.box.user_data))) < 16000
    error_message = "EC2 takes 16 KB of user data."
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.box.policy).Statement :
      statement.Resource != "*" || endswith(statement.Sid, "WhichKnowsNoResource")
    ])
    error_message = "Only what AWS cannot restrict is allowed for everything."
  }
  assert {
    condition = alltrue([
      for action in flatten([for statement in jsondecode(aws_iam_role_policy.box.policy).Statement : statement.Action]) :
      !strcontains(action, "*") && !strcontains(action, "Delete") && !strcontains(action, "Start") && !strcontains(action, "Create") || contains(["logs:CreateLogStream", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel"], action)
    ])
    error_message = "The box makes, starts and deletes nothing."
  }
}

run "people_launch_our_box_and_nothing_else" {
  module {
    source = "./modules/operators"
  }
  variables {
    name               = "ftm-test"
    region             = "us-east-1"
    account            = "123456789012"
    tags               = { Project = "ftm", Environment = "test" }
    launch_template_id = "lt-1"
    instance_types     = ["g4dn.2xlarge"]
    disk_gb            = 100
    box_role_arn       = "arn:aws:iam::123456789012:role/ftm"
    log_group_arn      = "arn:aws:logs:us-east-1:123456789012:log-group:/ftm"
    subnet_ids         = ["subnet-1", "subnet-2"]
    security_group_id  = "sg-1"
    bucket             = "ftm-test"
    database           = { identifier = "ftm-test", arn = "arn:aws:rds:us-east-1:123456789012:db:ftm-test", host = "ftm-test.rds", secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1" }
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_policy.operator.policy).Statement :
      !contains(flatten([statement.Resource]), "*") || endswith(statement.Sid, "WhichKnowsNoResource")
    ])
    error_message = "Only what AWS cannot restrict is allowed for everything."
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_policy.operator.policy).Statement :
      try(endswith(statement.Condition.ArnLike["ec2:LaunchTemplate"], ":launch-template/lt-1"), false)
      if contains(flatten([statement.Action]), "ec2:RunInstances") && !strcontains(jsonencode(statement.Resource), ":spot-instances-request/")
    ])
    error_message = "A box comes from our template."
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_policy.operator.policy).Statement :
      try(statement.Condition.StringEquals["aws:ResourceTag/Project"] == "ftm" && statement.Condition.StringEquals["aws:ResourceTag/Environment"] == "test", false)
      if contains(flatten([statement.Action]), "ec2:TerminateInstances") || contains(flatten([statement.Action]), "ssm:StartSession") && strcontains(jsonencode(statement.Resource), ":instance/")
    ])
    error_message = "No box but ours is ended or entered."
  }
  assert {
    condition     = !can(regex("[*]|Delete|Modify|Attach|:Put(Role|User|Group)", join(" ", flatten([for statement in jsondecode(aws_iam_policy.operator.policy).Statement : statement.Action]))))
    error_message = "People who launch a quarter have no call of AWS that deletes, and none that gives rights."
  }
}

run "what_is_not_protected_can_be_destroyed_and_what_is_cannot" {
  module {
    source = "./modules/storage"
  }
  variables {
    name    = "ftm-test"
    account = "123456789012"
    protect = true
  }

  assert {
    condition     = !aws_s3_bucket.main.force_destroy && !aws_ecr_repository.main.force_delete
    error_message = "A protected bucket with objects in it is not deleted."
  }
  assert {
    condition     = aws_s3_bucket_public_access_block.main.block_public_acls && aws_s3_bucket_public_access_block.main.block_public_policy && aws_s3_bucket_public_access_block.main.ignore_public_acls && aws_s3_bucket_public_access_block.main.restrict_public_buckets
    error_message = "Nothing in the bucket can be made public."
  }
  assert {
    condition     = aws_s3_bucket_versioning.main.versioning_configuration[0].status == "Enabled"
    error_message = "What is overwritten can be had back."
  }
}

run "the_whole_fits_together_and_hands_the_scripts_what_they_need" {
  assert {
    condition = alltrue([
      for name in ["REGION", "ENVIRONMENT", "DATABASE", "LAUNCH_TEMPLATE", "INSTANCE_TYPES", "SUBNETS", "BUCKET"] :
      strcontains(output.script_settings, "${name}=")
    ])
    error_message = "The scripts read these names."
  }
}
