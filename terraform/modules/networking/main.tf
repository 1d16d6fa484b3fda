# Two kinds of subnets: public ones for the box, which reaches out and is reached by nobody, and private ones without
# any way out for the database. No NAT gateway: it would cost more a month than everything else here.

# Decision 103: no NAT gateway, no VPC endpoints but S3's.
locals {
  # Named, not asked for: a list that AWS extends would move subnets from zone to zone.
  zones = [for letter in var.zone_letters : "${var.region}${letter}"]
}

# A network of our own: the account's default one has open rules that others may rely on.
resource "aws_vpc" "main" {
  #checkov:skip=CKV2_AWS_11:Flow logs cost by the GB and would tell little: nothing can connect from outside.
  cidr_block           = "10.20.0.0/16"
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# Where the box lives. A public address is how it gets out without a NAT gateway; nobody gets in by it.
resource "aws_subnet" "public" {
  #checkov:skip=CKV_AWS_130:The address is the way out; the security group has no way in.
  count                   = length(local.zones)
  vpc_id                  = aws_vpc.main.id
  availability_zone       = local.zones[count.index]
  cidr_block              = cidrsubnet(aws_vpc.main.cidr_block, 8, count.index)
  map_public_ip_on_launch = true
  tags                    = { Name = "${var.name}-public-${local.zones[count.index]}" }
}

# Where the database lives. RDS wants two zones even for a server in one.
resource "aws_subnet" "database" {
  count             = 2
  vpc_id            = aws_vpc.main.id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(aws_vpc.main.cidr_block, 8, 100 + count.index)
  tags              = { Name = "${var.name}-database-${local.zones[count.index]}" }
}

# The way out for the box, free of charge: SSM, ECR, Secrets Manager, CloudWatch and the language model are public.
resource "aws_internet_gateway" "main" {
  vpc_id = aws_vpc.main.id
  tags   = { Name = var.name }
}

# Sends what leaves the public subnets through the gateway. The database's subnets keep the network's main table,
# which knows no way out.
resource "aws_route_table" "public" {
  vpc_id = aws_vpc.main.id
  tags   = { Name = "${var.name}-public" }

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.main.id
  }
}

# Makes the public subnets public.
resource "aws_route_table_association" "public" {
  count          = length(aws_subnet.public)
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public.id
}

# Transcripts, exports and the layers of the image (which ECR keeps in S3) stay inside AWS, free of charge.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.public.id]
  tags              = { Name = "${var.name}-s3" }
}

# Without rules of ours the default group lets its members talk to each other; nobody is to be in it by accident.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.main.id
  tags   = { Name = "${var.name}-closed" }
}

# The box: no way in at all. People reach the UI through SSM, which the box itself calls.
resource "aws_security_group" "box" {
  #checkov:skip=CKV2_AWS_5:The launch template of the compute module attaches it.
  name        = "${var.name}-box"
  description = "The GPU box: nothing comes in"
  vpc_id      = aws_vpc.main.id
  tags        = { Name = "${var.name}-box" }
}

# AWS's services and the language model are reached by HTTPS. Names are resolved and clocks set inside the network,
# where these rules do not apply.
resource "aws_vpc_security_group_egress_rule" "box_https" {
  security_group_id = aws_security_group.box.id
  description       = "SSM, ECR, Secrets Manager, CloudWatch, S3, the language model"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

# The box's way to the database.
resource "aws_vpc_security_group_egress_rule" "box_database" {
  security_group_id            = aws_security_group.box.id
  description                  = "PostgreSQL"
  referenced_security_group_id = aws_security_group.database.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

# The database: only the box comes in, nothing goes out.
resource "aws_security_group" "database" {
  #checkov:skip=CKV2_AWS_5:The database module attaches it.
  name        = "${var.name}-database"
  description = "PostgreSQL: only the box comes in"
  vpc_id      = aws_vpc.main.id
  tags        = { Name = "${var.name}-database" }
}

# The only way in that exists in this network.
resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.database.id
  description                  = "PostgreSQL from the box"
  referenced_security_group_id = aws_security_group.box.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}
