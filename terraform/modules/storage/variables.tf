variable "name" { type = string }
variable "account" { type = string }
variable "protect" { type = bool }
