#!/usr/bin/env bash
# Say what runs, how far it is and what it costs: scripts/status.sh
#
# Changes nothing. Exit code 1: something costs money without work, and the message says how to stop it.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"
[ $# -eq 0 ] || show_help 2 >&2
read_settings

status=$(database_status)
found=$(boxes)
echo "environment $ENVIRONMENT"
echo "database $DATABASE: $status"
if [ -n "$found" ]; then
    while read -r box state quarter type zone since; do
        echo "box $box: $state since $since, $type in $zone, for $quarter; $(box_cost "$type" "$zone" "$since")"
        said_of "$quarter"
    done <<<"$found"
else
    echo "box: none"
fi

if [ -z "$found" ] && [ "$status" != stopped ] && [ "$status" != stopping ]; then
    day=$(awk -v d="$DATABASE_DOLLARS" 'BEGIN { printf "%.2f", 24 * d }')
    fail "the database is $status and no box works: \$$day a day for nothing, unless somebody uses it. RDS starts a stopped one by itself after seven days. Stop it with: scripts/stop_rds.sh"
fi
