#!/bin/sh
# Check config and alerts. Needs promtool, from Debian's package prometheus.
set -e
cd "$(dirname "$0")"
promtool check config prometheus.yml
promtool check rules alerts.yml
promtool test rules alerts_test.yml
