# One PostgreSQL server that can be stopped, which Aurora Serverless and its kin make dearer or harder. Stopped, it costs
# its disk.

locals {
  # Every 17.x on RDS is 17.1 or newer, and these bring pgvector 0.8.0 or newer, which the software needs
  # (it refuses older ones at its first connection). AWS chooses the newest minor version it stands for.
  major = "17"
}

# RDS places the server in one of these subnets, none of which has a way to the internet.
resource "aws_db_subnet_group" "main" {
  name       = var.name
  subnet_ids = var.subnet_ids
}

# What differs from RDS's defaults, and why. pgvector needs no setting: CREATE EXTENSION is in the first migration.
resource "aws_db_parameter_group" "main" {
  name   = "${var.name}-postgres${local.major}"
  family = "postgres${local.major}"

  # Passwords and transcripts cross the network encrypted, or not at all.
  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  # Building a vector index is quick as long as its graph fits into this (kB): 1 GB of the 8 that the server has.
  parameter {
    name  = "maintenance_work_mem"
    value = "1048576"
  }

  # When somebody asks why it was slow: what took longer than five seconds (ms) is in the log, and each change of schema.
  parameter {
    name  = "log_min_duration_statement"
    value = "5000"
  }
  parameter {
    name  = "log_statement"
    value = "ddl"
  }

  lifecycle {
    create_before_destroy = true
  }
}

# The data: everything else here can be made again.
resource "aws_db_instance" "main" {
  #checkov:skip=CKV_AWS_157:A second server doubles the price; a quarter that was cut off is resumed, and backups are there.
  #checkov:skip=CKV_AWS_161:The software connects with a password; tokens of IAM last 15 minutes, a worker's connections longer.
  #checkov:skip=CKV_AWS_118:Enhanced monitoring is billed by the log GB; `ftm worker status` and the slow log say enough.
  #checkov:skip=CKV_AWS_353:Performance Insights is being replaced by a paid service; the slow log says enough.
  #checkov:skip=CKV_AWS_354:No Performance Insights, so nothing of it to encrypt.
  #checkov:skip=CKV_AWS_293:Deletion protection is on where `protect` is true, which prod.tfvars says.
  #checkov:skip=CKV2_AWS_60:Tags are copied to snapshots; the check wants it said in another way.
  identifier     = var.name
  engine         = "postgres"
  engine_version = local.major
  instance_class = var.class

  db_name  = "ftm"
  username = "ftm"
  # RDS makes the password and keeps it in Secrets Manager: it is in no state, no variable and no shell history.
  manage_master_user_password = true

  storage_type          = "gp3"
  storage_encrypted     = true
  allocated_storage     = var.gb.first
  max_allocated_storage = var.gb.most

  db_subnet_group_name   = aws_db_subnet_group.main.name
  vpc_security_group_ids = var.security_group_ids
  publicly_accessible    = false
  parameter_group_name   = aws_db_parameter_group.main.name

  backup_retention_period         = var.backup_days
  copy_tags_to_snapshot           = true
  deletion_protection             = var.protect
  skip_final_snapshot             = !var.protect
  final_snapshot_identifier       = "${var.name}-last"
  auto_minor_version_upgrade      = true
  enabled_cloudwatch_logs_exports = ["postgresql"]
  apply_immediately               = true # it is stopped most of the time; a maintenance window would be missed
}

# By itself RDS changes the password every seven days, and catches up when a stopped server is started, which is when a
# quarter begins: connections in use would live on, new ones fail. So it is changed by hand, while no box works
# (docs/cloud.md); 1000 days are the most that Secrets Manager allows.
resource "aws_secretsmanager_secret_rotation" "password" {
  #checkov:skip=CKV_AWS_304:See above: changed by hand, because a change under a working box would break its run.
  secret_id          = aws_db_instance.main.master_user_secret[0].secret_arn
  rotate_immediately = false

  rotation_rules {
    automatically_after_days = 1000
  }
}
