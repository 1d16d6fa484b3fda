variable "environment" {
  description = "dev or prod; part of every name"
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,9}$", var.environment))
    error_message = "The environment is a short word of small letters and digits, such as dev or prod."
  }
}

variable "region" {
  description = "AWS region of everything"
  type        = string
  default     = "us-east-1"
}

variable "zone_letters" {
  description = "zones of the region; spot capacity differs between them, so the box may go to any"
  type        = list(string)
  default     = ["a", "b", "c"]

  validation {
    condition     = length(var.zone_letters) >= 2
    error_message = "RDS wants subnets in two zones at least."
  }
}

variable "protect" {
  description = "true: database and bucket cannot be destroyed by mistake, and a last snapshot is kept"
  type        = bool
}

variable "backup_days" {
  description = "days for which the database can be restored to any second"
  type        = number
}

variable "database_class" {
  description = "size of the database server; the prices of docs/cloud.md are those of the default"
  type        = string
  default     = "db.t4g.large"
}

variable "database_gb" {
  description = "disk of the database at first and at most; it grows by itself in between, and never shrinks"
  type        = object({ first = number, most = number })
}

variable "instance_types" {
  description = "sizes of the box, best first; the next one is taken where a region has no capacity for a type"
  type        = list(string)
  default     = ["g4dn.2xlarge", "g5.2xlarge", "g6.2xlarge", "g4dn.4xlarge"]
}

variable "image_tag" {
  description = "which image of the repository the box runs; tags are never moved, so a release has a tag of its own"
  type        = string
}

variable "idle_minutes" {
  description = "minutes without work after which the box stops the database and ends itself"
  type        = number
  default     = 10
}

variable "most_hours" {
  description = "hours after which the box ends itself whatever it does: no fault of ours can cost more than this"
  type        = number
  default     = 6
}

variable "llm_model" {
  description = "language model that writes summaries; empty: they are made of keywords"
  type        = string
  default     = ""
}

variable "budget_dollars" {
  description = "dollars a month of the whole account; mails are sent at half, at 80 % and when it is forecast to be passed"
  type        = number
}

variable "alarm_email" {
  description = "who is told about the budget"
  type        = string
}

variable "ami_owner" {
  description = "who publishes the machine image"
  type        = string
  default     = "amazon"
}
