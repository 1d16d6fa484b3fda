output "policy_arn" { value = aws_iam_policy.operator.arn }
