variable "name" { type = string }
variable "region" { type = string }
variable "account" { type = string }
variable "tags" { type = map(string) }
variable "ami_owner" { type = string }
variable "instance_type" { type = string }
variable "security_group_ids" { type = list(string) }
variable "image" { type = string }
variable "repository_arn" { type = string }
variable "bucket" { type = string }
variable "database" { type = object({ identifier = string, arn = string, host = string, secret_arn = string }) }
variable "idle_minutes" { type = number }
variable "most_hours" { type = number }
variable "llm_model" { type = string }
