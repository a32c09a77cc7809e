#!/bin/bash
# Drain this machine's node of a Ray cluster when the cloud announces that it takes the machine away.
#
#   ray start --address=... && nohup bash cluster/drain_on_notice.sh aws > /tmp/drain.log 2>&1 &
#
# The first argument is the cloud (aws, gcp, azure); further ones are options of `ray drain-node` (--address, --node-id).
# Ray itself drains a node only when its autoscaler takes it. Training on a drained node saves a checkpoint and resumes
# on the nodes that are left, instead of losing what it did since the last one. Amazon gives 2 minutes, Google and Azure
# give 30 s. Sources: EC2 user guide (IMDSv2), Compute Engine metadata, Azure Scheduled Events 2020-07-01.
set -uo pipefail
cloud=${1:?aws, gcp or azure}
shift
metadata=${METADATA:-http://169.254.169.254}

ask() {
  curl --noproxy '*' --silent --fail --max-time 2 "$@"
}

# Whether there is a notice.
notice() {
  case $cloud in
    aws)
      local token
      token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$metadata/latest/api/token") &&
        ask -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action" > /dev/null
      ;;
    gcp)
      local instance=$metadata/computeMetadata/v1/instance
      [[ $(ask -H 'Metadata-Flavor: Google' "$instance/preempted") == TRUE ||
        $(ask -H 'Metadata-Flavor: Google' "$instance/maintenance-event") == TERMINATE_ON_HOST_MAINTENANCE ]]
      ;;
    azure)  # events of a whole scale set are told to each of its machines
      local name
      name=$(ask -H Metadata:true "$metadata/metadata/instance/compute/name?api-version=2021-02-01&format=text") &&
        ask -H Metadata:true "$metadata/metadata/scheduledevents?api-version=2020-07-01" | python3 -c '
import json, sys
kinds = {"Preempt", "Terminate", "Reboot", "Redeploy"}
events = [event for event in json.load(sys.stdin)["Events"] if event["EventType"] in kinds]
sys.exit(not any(sys.argv[1] in event.get("Resources", sys.argv[1:]) for event in events))' "$name"
      ;;
    *)
      echo "unknown cloud $cloud; aws, gcp or azure" >&2
      exit 2
      ;;
  esac
}

until notice; do
  sleep "${EVERY:-2}"
done
seconds=25
[[ $cloud == aws ]] && seconds=115
echo "$cloud takes this machine away: draining its node"
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "$cloud takes this machine away" \
  --deadline-remaining-seconds "$seconds" "$@"
