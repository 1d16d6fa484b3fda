# One GPU box that comes and goes, one PostgreSQL that is stopped in between, one bucket, one image repository.
# docs/cloud.md says how it is used, what it costs, and what of it was tried.

locals {
  name = "ftm-${var.environment}"
  tags = {
    Project     = "ftm"
    Environment = var.environment
  }
}

# Part of the bucket's name, which must be unique in the world, and of the rights of the box.
data "aws_caller_identity" "current" {}

module "networking" {
  source       = "./modules/networking"
  name         = local.name
  region       = var.region
  zone_letters = var.zone_letters
}

module "storage" {
  source  = "./modules/storage"
  name    = local.name
  account = data.aws_caller_identity.current.account_id
  protect = var.protect
}

module "database" {
  source             = "./modules/database"
  name               = local.name
  class              = var.database_class
  gb                 = var.database_gb
  subnet_ids         = module.networking.database_subnet_ids
  security_group_ids = [module.networking.database_security_group_id]
  backup_days        = var.backup_days
  protect            = var.protect
}

module "compute" {
  source             = "./modules/compute"
  name               = local.name
  region             = var.region
  account            = data.aws_caller_identity.current.account_id
  tags               = local.tags
  ami_owner          = var.ami_owner
  instance_type      = var.instance_types[0]
  security_group_ids = [module.networking.box_security_group_id]
  image              = "${module.storage.repository_url}:${var.image_tag}"
  repository_arn     = module.storage.repository_arn
  bucket             = module.storage.bucket
  database           = module.database
  idle_minutes       = var.idle_minutes
  most_hours         = var.most_hours
  llm_model          = var.llm_model
}

module "operators" {
  source             = "./modules/operators"
  name               = local.name
  region             = var.region
  account            = data.aws_caller_identity.current.account_id
  tags               = local.tags
  launch_template_id = module.compute.launch_template_id
  instance_types     = var.instance_types
  disk_gb            = module.compute.disk_gb
  box_role_arn       = module.compute.role_arn
  log_group_arn      = module.compute.log_group_arn
  subnet_ids         = module.networking.public_subnet_ids
  security_group_id  = module.networking.box_security_group_id
  bucket             = module.storage.bucket
  database           = module.database
}

# The last line of defence: whatever else goes wrong, a person hears of the money. It watches the whole account,
# because a budget that is filtered by tag stays silent until somebody activates the tag in the billing console.
resource "aws_budgets_budget" "month" {
  name         = local.name
  budget_type  = "COST"
  limit_amount = tostring(var.budget_dollars)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  dynamic "notification" {
    for_each = [
      { kind = "ACTUAL", percent = 50 },
      { kind = "ACTUAL", percent = 80 },
      { kind = "FORECASTED", percent = 100 },
    ]
    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = notification.value.kind
      threshold                  = notification.value.percent
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = [var.alarm_email]
    }
  }
}
