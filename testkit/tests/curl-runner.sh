#!/bin/sh
# A runner of curl and sh alone, as somebody else would write one: registers, takes a job, runs its script, sends the log,
# reports success. On the way it tries what GitLab refuses. Usage: curl-runner.sh URL REGISTRATION_TOKEN
set -eu

api=$1/api/v4
registration_token=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# call METHOD PATH [curl options...]: leaves the status in $status, the answer in $folder/body and $folder/head.
call() {
  method=$1 path=$2
  shift 2
  status=$(curl --silent --show-error --output "$folder/body" --dump-header "$folder/head" --write-out '%{http_code}' \
    --request "$method" "$@" "$api$path")
}

expect() {
  [ "$status" = "$1" ] || { echo "$2: $status instead of $1: $(cat "$folder/body")" >&2; exit 1; }
  echo "$2: $1"
}

# text NAME: the first text of that name in the JSON answer. Good enough for what is asked here.
text() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$folder/body" | head -n 1; }
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$folder/body" | head -n 1; }
header() { tr -d '\r' <"$folder/head" | sed -n "s/^$1: //Ip" | head -n 1; }

json='Content-Type: application/json'
info='{"name":"curl-runner","version":"1","platform":"linux","features":{"trace_checksum":true,"refspecs":true}}'

call POST /runners --header "$json" --data '{"info":{}}'
expect 400 'register without a token'
call POST /runners --header "$json" --data '{"token":"wrong"}'
expect 403 'register with a wrong token'
call POST /runners --header "$json" --data "{\"token\":\"$registration_token\",\"info\":$info,\"run_untagged\":true}"
expect 201 'register'
token=$(text token)

call POST /runners/verify --data-urlencode "token=$token"
expect 200 'verify, as a form'
call POST /runners/verify --header "$json" --data '{"token":"wrong"}'
expect 403 'verify a wrong token'

ask="{\"token\":\"$token\",\"system_id\":\"r_curlrunner01\",\"info\":$info}"
call POST /jobs/request --header "RUNNER-TOKEN: $token" --header "$json" --header 'Accept: application/json' --data "$ask"
expect 201 'request a job'
cp "$folder/body" "$folder/job"
job=$(tr ',{' '\n\n' <"$folder/job" | sed -n 's/^"id":\([0-9]\{10,\}\).*/\1/p' | head -n 1)
job_token=$(tr ',{' '\n\n' <"$folder/job" | sed -n 's/^"token":"\(glcbt-[^"]*\)".*/\1/p' | head -n 1)
[ -n "$job" ] && [ -n "$job_token" ] || { echo "no job in: $(cat "$folder/job")" >&2; exit 1; }

call POST /jobs/request --header "$json" --data "$ask"
expect 204 'request another job'
call PUT "/jobs/$job" --header "JOB-TOKEN: $job_token" --header "$json" --data '{"state":"running"}'
expect 400 'accept with the token in the header alone'
call PUT "/jobs/$job" --header "$json" --data "{\"token\":\"$job_token\",\"state\":\"running\"}"
expect 200 'accept'

# The script of the job, which this runner knows how to run.
sh -c 'echo "hello from curl"; echo "done"' >"$folder/log" 2>&1
size=$(wc -c <"$folder/log" | tr -d ' ')

# patch START END FILE: sends those bytes, counted from 0.
patch() {
  call PATCH "/jobs/$job/trace" --header "JOB-TOKEN: $job_token" --header 'Content-Type: text/plain' \
    --header "Content-Range: $1-$2" --data-binary "@$3"
}
head -c 6 "$folder/log" >"$folder/first"
tail -c +7 "$folder/log" >"$folder/second"
patch 0 5 "$folder/first"
expect 202 'the first piece of the log'
patch 9 $((size - 1)) "$folder/second"
expect 416 'a piece at the wrong place'
[ "$(header range)" = 0-6 ] || { echo "the range is $(header range)" >&2; exit 1; }
patch 6 $((size - 1)) "$folder/second"
expect 202 'the second piece of the log'
call PATCH "/jobs/$job/trace" --header 'JOB-TOKEN: wrong' --header 'Content-Type: text/plain' \
  --header "Content-Range: $size-$size" --data x
expect 403 'a piece with a wrong token'
call PATCH "/jobs/$job/trace" --header "JOB-TOKEN: $job_token" --header 'Content-Type: text/plain' --data x
expect 400 'a piece without a range'

printf 'PK\005\006' >"$folder/artifacts.zip"
call POST "/jobs/$job/artifacts?artifact_type=archive&artifact_format=zip" --header "JOB-TOKEN: $job_token" \
  --form "file=@$folder/artifacts.zip;type=application/octet-stream"
expect 201 'an artifact'

call PUT "/jobs/$job" --header "$json" --data "{\"token\":\"$job_token\",\"state\":\"moon\"}"
expect 400 'a state that is none'
call PUT "/jobs/$job" --header "$json" --data "{\"token\":\"$job_token\",\"state\":\"success\"}"
expect 200 'success'
patch "$size" "$size" "$folder/first"
expect 403 'a piece after the end'
[ "$(header job-status)" = success ] || { echo "the status is $(header job-status)" >&2; exit 1; }

call DELETE /runners --header "RUNNER-TOKEN: $token" --header "$json" --data "{\"token\":\"$token\"}"
expect 204 'unregister'
call DELETE /runners --header "$json" --data "{\"token\":\"$token\"}"
expect 403 'unregister again'
echo "job $job $size"
