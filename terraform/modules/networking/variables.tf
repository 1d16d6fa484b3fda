variable "name" { type = string }
variable "region" { type = string }
variable "zone_letters" { type = list(string) }
