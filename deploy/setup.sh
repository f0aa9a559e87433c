#!/bin/sh
# Makes what docker-compose.yml needs to encrypt and to know its callers, once: what is there stays. Each service gets a
# volume with its own files only; /authority, which has all of them, belongs to no service.
set -eu
umask 077
cd /authority

offramp certs . --node edge-1 --node edge-2 --node cloud --node dashboard --node grafana

api_key() { # NAME RIGHT…
  name=$1
  shift
  [ -f "$name.api" ] || offramp keys keys.json "$name" "$@" --write "$name.api"
}
api_key you --right ask --right watch --right change
api_key dashboard --right watch
api_key prometheus --right watch
api_key load --right ask
[ -f grafana.password ] || python3 -c 'import secrets; print(secrets.token_urlsafe(18))' >grafana.password

give() { # SERVICE FILE=NAME…
  to=/for/$1
  shift
  for each; do
    cp "${each%=*}" "$to/.new"
    mv "$to/.new" "$to/${each#*=}"
  done
}
for edge in edge-1 edge-2; do
  give "$edge" ca.pem=ca.pem "$edge.pem=node.pem" "$edge.key=node.key" keys.json=keys.json
done
give cloud ca.pem=ca.pem cloud.pem=node.pem cloud.key=node.key keys.json=keys.json
give dashboard ca.pem=ca.pem dashboard.pem=node.pem dashboard.key=node.key dashboard.api=dashboard.api
give load ca.pem=ca.pem load.api=load.api
# These two run as users of their own.
give prometheus ca.pem=ca.pem prometheus.api=prometheus.api
give grafana grafana.pem=node.pem grafana.key=node.key grafana.password=password
chmod 644 /for/prometheus/* /for/grafana/*
