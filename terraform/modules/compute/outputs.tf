output "launch_template_id" { value = aws_launch_template.box.id }
output "llm_key_parameter" { value = local.key_parameter }
output "disk_gb" { value = local.disk_gb }
output "role_arn" { value = aws_iam_role.box.arn }
output "log_group_arn" { value = aws_cloudwatch_log_group.box.arn }
