output "launch_template_id" { value = aws_launch_template.box.id }
output "llm_key_parameter" { value = local.key_parameter }
