#!/usr/bin/env bash
# What the environment has cost, by month, service and quarter: scripts/cost.sh [--dry-run] [MONTHS]
#
# Asks Cost Explorer for this month and those before it, three in all if not said. That costs a cent a call, lags by a
# day, and needs the tags Project, Environment and Quarter to be activated (docs/cloud.md). Changes nothing.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"

months=3
for argument in "$@"; do
    case $argument in
    --dry-run) DRY_RUN=true ;;
    --help) show_help ;;
    *[!0-9]* | "") show_help 2 >&2 ;;
    *) months=$argument ;;
    esac
done
read_settings

first=$(date -d "$(date +%Y-%m-01) -$((months - 1)) months" +%Y-%m-%d)
filter='{"And": [{"Tags": {"Key": "Project", "Values": ["ftm"]}}, {"Tags": {"Key": "Environment", "Values": ["'$ENVIRONMENT'"]}}]}'
# Cost Explorer is in one region, whatever is asked about.
found=$(change aws ce get-cost-and-usage --region us-east-1 --granularity MONTHLY --metrics UnblendedCost \
    --time-period "Start=$first,End=$(date -d tomorrow +%Y-%m-%d)" --filter "$filter" \
    --group-by Type=DIMENSION,Key=SERVICE Type=TAG,Key=Quarter --output text \
    --query 'ResultsByTime[].{month: TimePeriod.Start, rows: Groups[].{amount: Metrics.UnblendedCost.Amount, quarter: Keys[1], service: Keys[0]}}')
if $DRY_RUN; then
    echo "$found"
    exit 0
fi
awk -F '\t' '
    $1 == "ROWS" { sub(/^Quarter\$/, "", $3); printf "%s  %9.2f  %-8s %s\n", month, $2, $3 == "" ? "-" : $3, $4; total += $2; next }
    NF { month = substr($1, 1, 7) }
    END { printf "all      %9.2f\n", total }' <<<"$found"
