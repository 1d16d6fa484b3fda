#!/usr/bin/env bash
# Stop the database: scripts/stop_rds.sh [--dry-run] [--end-box]
#
# Refuses while a box works, which stops the database itself when it is through. --end-box ends the box first: what is
# done stays, firms in work are done again by the next launch. Safe to run twice, and daily: RDS starts a stopped
# database by itself after seven days.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"

end_box=false
for argument in "$@"; do
    case $argument in
    --dry-run) DRY_RUN=true ;;
    --end-box) end_box=true ;;
    --help) show_help ;;
    *) show_help 2 >&2 ;;
    esac
done
read_settings

found=$(boxes)
if [ -n "$found" ]; then
    read -r -a ids <<<"$(cut -f 1 <<<"$found" | tr '\n' ' ')"
    $end_box || fail "box ${ids[*]} works on $(cut -f 3 <<<"$found" | head -n 1); it stops the database when it is through. To end it now: scripts/stop_rds.sh --end-box"
    change aws ec2 terminate-instances --instance-ids "${ids[@]}" --query 'TerminatingInstances[].InstanceId' --output text
    change aws ec2 wait instance-terminated --instance-ids "${ids[@]}"
fi

deadline=$((SECONDS + 3600))
while [ $SECONDS -lt $deadline ]; do
    status=$(database_status)
    case $status in
    stopped | stopping)
        echo "database $DATABASE: $status"
        exit 0
        ;;
    available)
        change aws rds stop-db-instance --db-instance-identifier "$DATABASE" --query DBInstance.DBInstanceStatus --output text
        if $DRY_RUN; then exit 0; fi
        ;;
    *)
        echo "database $DATABASE: $status; it can be stopped once it is available"
        sleep "$POLL_SECONDS"
        ;;
    esac
done
fail "the database is still $status after an hour; see the RDS console"
