#!/bin/sh
# Redis in a container: the users' passwords come from the environment and only their hashes are kept.
# Reads /etc/eventml/redis.conf and users.acl, keeps its data in /data. Arguments go to redis-server.
set -eu
config=${REDIS_CONFIG_DIR:-/etc/eventml}
data=${REDIS_DATA_DIR:-/data}
umask 077

credential() { # NAME PASSWORD
  if [ -z "$2" ]; then
    echo off
  elif [ "${#2}" -lt 16 ]; then
    echo "REDIS_$1_PASSWORD is shorter than 16 characters; make one with: openssl rand -hex 32" >&2
    return 1
  else
    echo "on #$(printf %s "$2" | sha256sum | cut -d ' ' -f 1)"
  fi
}

producer=$(credential PRODUCER "${REDIS_PRODUCER_PASSWORD-}")
consumer=$(credential CONSUMER "${REDIS_CONSUMER_PASSWORD-}")
operator=$(credential OPERATOR "${REDIS_OPERATOR_PASSWORD-}")
unset REDIS_PRODUCER_PASSWORD REDIS_CONSUMER_PASSWORD REDIS_OPERATOR_PASSWORD
sed -e '/^#/d' -e '/^$/d' \
  -e "s/@PRODUCER@/$producer/" -e "s/@CONSUMER@/$consumer/" -e "s/@OPERATOR@/$operator/" \
  "$config/users.acl" >"$data/users.acl"

# A crash may have cut a transaction short. Redis would leave its beginning in the file, and the next writes behind it.
for manifest in "$data"/appendonlydir/*.manifest; do
  [ ! -f "$manifest" ] || echo y | redis-check-aof --fix "$manifest" >/dev/null || true
done

# Inside a container loopback would be closed to everyone: the published port is what is on loopback.
exec redis-server "$config/redis.conf" --dir "$data" --aclfile "$data/users.acl" --bind '*' '-::*' "$@"
