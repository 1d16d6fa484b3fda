# shellcheck shell=bash
# Sourced by the scripts beside it: where things are, and what several of them ask or do.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TERRAFORM_DIR=${TERRAFORM_DIR:-$HERE/../terraform}
POLL_SECONDS=${POLL_SECONDS:-20}
# For what is printed while you wait; scripts/cost.sh asks AWS. List price of db.t4g.large in us-east-1, and the box's
# disk and address beside its spot price (docs/cloud.md).
DATABASE_DOLLARS=0.129
BOX_EXTRAS_DOLLARS=0.016
DRY_RUN=false

fail() {
    echo "error: $*" >&2
    exit 1
}

# What the script's first lines say is its help.
show_help() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit "${1:-0}"
}

# Names of everything, from the outputs of the workspace that Terraform has selected (TF_WORKSPACE names another).
read_settings() {
    local settings
    # Nothing but assignments: where there are no outputs, Terraform prints a warning and calls it success.
    settings=$(terraform -chdir="$TERRAFORM_DIR" output -no-color -raw script_settings 2>/dev/null |
        grep -E "^[A-Z_]+=[A-Za-z0-9_ ./'-]*$") ||
        fail "Terraform has no outputs in $TERRAFORM_DIR; run terraform init and apply there first (docs/cloud.md)"
    # shellcheck disable=SC1090 # lines NAME=value of terraform/outputs.tf
    source <(echo "$settings")
    export AWS_DEFAULT_REGION=$REGION
}

# Run what changes something or, in a dry run, only say it.
change() {
    if $DRY_RUN; then
        echo "would run: $*"
    else
        "$@"
    fi
}

database_status() {
    aws rds describe-db-instances --db-instance-identifier "$DATABASE" \
        --query 'DBInstances[0].DBInstanceStatus' --output text
}

# Boxes of this environment that are not gone, one a line: id, state, quarter, type, zone, since
boxes() {
    aws ec2 describe-instances --output text \
        --filters "Name=tag:Project,Values=ftm" "Name=tag:Environment,Values=$ENVIRONMENT" \
        "Name=instance-state-name,Values=pending,running,shutting-down,stopping" \
        --query "Reservations[].Instances[].[InstanceId, State.Name, Tags[?Key=='Quarter']|[0].Value, InstanceType, Placement.AvailabilityZone, LaunchTime]"
}

hours_since() {
    echo "$(($(date +%s) - $(date -d "$1" +%s)))" | awk '{ printf "%.2f", $1 / 3600 }'
}

# What a box has cost: type, zone, since. Without a known spot price it says so.
box_cost() {
    local price hours
    hours=$(hours_since "$3")
    price=$(aws ec2 describe-spot-price-history --instance-types "$1" --availability-zone "$2" \
        --product-descriptions Linux/UNIX --start-time "$(date -u +%Y-%m-%dT%H:%M:%SZ)" --max-items 1 \
        --query 'SpotPriceHistory[0].SpotPrice' --output text | head -n 1)
    [[ $price =~ ^[0-9.]+$ ]] || { echo "$hours h, spot price unknown"; return; }
    awk -v h="$hours" -v p="$price" -v e="$BOX_EXTRAS_DOLLARS" -v d="$DATABASE_DOLLARS" \
        'BEGIN { printf "%.2f h, box $%.2f, database $%.2f", h, h * (p + e), h * d }'
}

# What the box said last about a quarter; nothing if it has said nothing yet. The first line is: id, state, time
said_of() {
    aws s3 cp --quiet "s3://$BUCKET/exports/$1/status.txt" - 2>/dev/null || true
}
