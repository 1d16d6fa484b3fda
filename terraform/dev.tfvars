# To try things: small, cheap, and gone with one `terraform destroy`.
environment    = "dev"
protect        = false
backup_days    = 1
database_gb    = { first = 20, most = 100 }
image_tag      = "0.1.0"
budget_dollars = 30
alarm_email    = "research-group@example.org"
