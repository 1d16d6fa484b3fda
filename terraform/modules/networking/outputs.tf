output "public_subnet_ids" { value = aws_subnet.public[*].id }
output "database_subnet_ids" { value = aws_subnet.database[*].id }
output "box_security_group_id" { value = aws_security_group.box.id }
output "database_security_group_id" { value = aws_security_group.database.id }
