variable "name" { type = string }
variable "class" { type = string }
variable "gb" { type = object({ first = number, most = number }) }
variable "subnet_ids" { type = list(string) }
variable "security_group_ids" { type = list(string) }
variable "backup_days" { type = number }
variable "protect" { type = bool }
