terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0" # what was tested; the lock file differs from platform to platform
    }
  }
}

# Every resource carries these tags, so that the bill can be asked what belongs to us (scripts/cost.sh).
provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}
