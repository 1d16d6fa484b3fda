variable "name" { type = string }
variable "region" { type = string }
variable "account" { type = string }
variable "tags" { type = map(string) }
variable "launch_template_id" { type = string }
variable "box_role_arn" { type = string }
variable "log_group_arn" { type = string }
variable "disk_gb" { type = number }
variable "instance_types" { type = list(string) }
variable "subnet_ids" { type = list(string) }
variable "security_group_id" { type = string }
variable "bucket" { type = string }
variable "database" { type = object({ identifier = string, arn = string, host = string, secret_arn = string }) }
