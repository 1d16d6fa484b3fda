#!/usr/bin/env bash
# Compute a quarter on a spot GPU box: scripts/launch_pipeline.sh [--dry-run] [--keep MINUTES] 2024Q1
#
# Starts the database, requests the box, and shows how far it is and what it costs until the box has gone and the
# database is stopped. A box that AWS takes away is replaced. Ctrl-C ends only the looking on; the same command looks on
# again, or goes on with what is left. --keep: how long a box that is through waits for people who use UI and database.
#
# Exit code 0: the quarter is done. 1: it is not, and nothing runs any more, or the message says what does.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"

MOST_BOXES=5 # of one call: whoever loses that many should look at another region or hour

quarter="" keep=""
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) DRY_RUN=true ;;
    --keep)
        [[ ${2:-} =~ ^[0-9]+$ ]] || fail "--keep wants minutes, such as --keep 120"
        keep=$2
        shift
        ;;
    --help) show_help ;;
    *) quarter=$1 ;;
    esac
    shift
done
[[ $quarter =~ ^[0-9]{4}Q[1-4]$ ]] || fail "'$quarter' is no quarter; write it as 2024Q1"
read_settings

# The box of this environment, if there is one: a database has one worker, so there is never a second.
find_box() {
    local found state its_quarter
    while :; do
        found=$(boxes) || fail "AWS does not say which boxes there are; nothing was started"
        [ -n "$found" ] || return 1
        read -r box state its_quarter type zone since <<<"$found"
        [ "$state" = pending ] || [ "$state" = running ] || { sleep "$POLL_SECONDS"; continue; }
        [ "$its_quarter" = "$quarter" ] ||
            fail "box $box works on $its_quarter; wait until it is through, or end it with: scripts/stop_rds.sh --end-box"
        return 0
    done
}

# Take the first size and zone that AWS has room for.
request_box() {
    local tags="{Key=Project,Value=ftm},{Key=Environment,Value=$ENVIRONMENT},{Key=Name,Value=ftm-$ENVIRONMENT-box},{Key=Quarter,Value=$quarter}"
    local subnet said
    for type in $INSTANCE_TYPES; do
        for subnet in $SUBNETS; do
            if said=$(change aws ec2 run-instances --launch-template "LaunchTemplateId=$LAUNCH_TEMPLATE" \
                --instance-type "$type" --subnet-id "$subnet" \
                --tag-specifications "ResourceType=instance,Tags=[$tags${keep:+,{Key=KeepMinutes,Value=$keep\}}]" \
                "ResourceType=volume,Tags=[$tags]" \
                --query 'Instances[0].[InstanceId, Placement.AvailabilityZone, LaunchTime]' --output text 2>&1); then
                $DRY_RUN && echo "$said" && exit 0
                read -r box zone since <<<"$said"
                echo "box $box: $type in $zone"
                return
            fi
            [[ $said =~ InsufficientInstanceCapacity|SpotMaxPriceTooLow|Unsupported ]] || fail "$said"
            echo "no room for a $type in $subnet"
        done
    done
    fail "AWS has no room for any of: $INSTANCE_TYPES. The database runs; stop it with scripts/stop_rds.sh and try later"
}

# Look on until the box has gone; leaves the last state that it said, and why it has gone, in `outcome` and `reason`.
follow() {
    local state said before=""
    outcome=""
    while :; do
        read -r state reason <<<"$(aws ec2 describe-instances --instance-ids "$box" --output text \
            --query 'Reservations[0].Instances[0].[State.Name, StateReason.Code]')"
        said=$(said_of "$quarter")
        # What another box of before has said does not count.
        [ "${said%% *}" = "$box" ] && outcome=$(cut -d ' ' -f 2 <<<"${said%%$'\n'*}")
        if [ "$state/$said" != "$before" ]; then
            echo "$(date +%H:%M:%S) box $state${outcome:+, quarter $outcome}; $(box_cost "$type" "$zone" "$since")"
            [ -z "$outcome" ] || tail -n +2 <<<"$said"
            before=$state/$said
        fi
        [ "$state" != terminated ] || return 0
        sleep "$POLL_SECONDS"
    done
}

trap 'echo "nobody looks on any more; box and database go on, and stop when they are through. Look again: $0 $quarter"; exit 130' INT
echo "environment $ENVIRONMENT, quarter $quarter"
options=()
$DRY_RUN && options=(--dry-run)

for _ in $(seq $MOST_BOXES); do
    if find_box; then
        echo "box $box works on $quarter already"
        $DRY_RUN && exit 0
    else
        "$HERE/start_rds.sh" "${options[@]}"
        request_box
    fi
    follow
    case $outcome/$reason in
    done/*)
        "$HERE/stop_rds.sh"
        echo "done: s3://$BUCKET/exports/$quarter/report.html"
        exit 0
        ;;
    interrupted/* | */Server.*) echo "AWS has taken the box ($reason); the quarter goes on with another" ;;
    *)
        "$HERE/stop_rds.sh"
        fail "the box has ended before the quarter was done (${outcome:-said nothing}, $reason); its log is CloudWatch's /ftm-$ENVIRONMENT. What is done stays; go on with: $0 $quarter"
        ;;
    esac
done
"$HERE/stop_rds.sh"
fail "AWS has taken $MOST_BOXES boxes; go on later with: $0 $quarter"
