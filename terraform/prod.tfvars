# The group's data: cannot be destroyed by mistake, and can be restored to any second of two weeks.
environment    = "prod"
protect        = true
backup_days    = 14
database_gb    = { first = 100, most = 1000 }
image_tag      = "0.1.0"
budget_dollars = 100
alarm_email    = "research-group@example.org"
