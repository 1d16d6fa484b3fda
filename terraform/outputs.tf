# What scripts/ reads, as lines that a shell understands; no secret is among them.
output "script_settings" {
  description = "names of what the scripts start, watch and stop"
  value = join("\n", [
    "REGION=${var.region}",
    "ENVIRONMENT=${var.environment}",
    "DATABASE=${module.database.identifier}",
    "LAUNCH_TEMPLATE=${module.compute.launch_template_id}",
    "INSTANCE_TYPES='${join(" ", var.instance_types)}'",
    "SUBNETS='${join(" ", module.networking.public_subnet_ids)}'",
    "BUCKET=${module.storage.bucket}",
    "",
  ])
}

output "bucket" {
  description = "transcripts go below transcripts/QUARTER/, reports come below exports/QUARTER/"
  value       = module.storage.bucket
}

output "repository_url" {
  description = "where the image is pushed to"
  value       = module.storage.repository_url
}

output "database_host" {
  description = "for port forwarding through the box"
  value       = module.database.host
}

output "database_secret" {
  description = "secret with the database's user and password"
  value       = module.database.secret_arn
}

output "llm_key_parameter" {
  description = "where the language model's key is put by hand, so that it never enters Terraform's state"
  value       = module.compute.llm_key_parameter
}

output "operator_policy" {
  description = "for the group or role of those who launch quarters"
  value       = module.operators.policy_arn
}
