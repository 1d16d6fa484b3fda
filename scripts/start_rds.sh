#!/usr/bin/env bash
# Start the database, and wait until it answers: scripts/start_rds.sh [--dry-run]
#
# Safe to run twice. A database that is being stopped is waited for, then started. Takes some ten minutes.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"

for argument in "$@"; do
    case $argument in
    --dry-run) DRY_RUN=true ;;
    --help) show_help ;;
    *) show_help 2 >&2 ;;
    esac
done
read_settings

deadline=$((SECONDS + 3600)) before=""
while [ $SECONDS -lt $deadline ]; do
    status=$(database_status)
    [ "$status" = "$before" ] || echo "database $DATABASE: $status"
    before=$status
    case $status in
    available) exit 0 ;;
    stopped)
        change aws rds start-db-instance --db-instance-identifier "$DATABASE" --query DBInstance.DBInstanceStatus --output text
        if $DRY_RUN; then exit 0; fi
        ;;
    failed | incompatible-* | storage-full | inaccessible-*)
        fail "the database is $status; see the RDS console, and docs/cloud.md for restoring a backup"
        ;;
    esac
    sleep "$POLL_SECONDS"
done
fail "the database is still $before after an hour; see the RDS console"
