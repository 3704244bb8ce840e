# dynamodb: two ends meet in a DynamoDB table, by way of proxies that sign each request again and often misbehave
# The fakes are .test/dynamodb.js and imds.py, which explain their modes, and .test/aws.js, the AWS SDK.

dynamodb_setup() {
    need 'DynamoDB' node python3 || return 1
    if ! node -e 'require("dynalite"); require("@aws-sdk/client-dynamodb")' 2>/dev/null; then
        skip 'DynamoDB' 'node finds no dynalite and @aws-sdk/client-dynamodb (set NODE_PATH)'
        return 1
    fi
    bg dynamodb node .test/dynamodb.js "$shared/servers"
    until_true test -f "$shared/servers" || { fail 'the fake DynamoDB starts' "$(cat "$tmp/dynamodb.err")"; return 1; }
}
port_in() { awk -v mode="$2" '$1 == mode { print $2 }' "$1"; }  # FILE MODE

# The settings for the proxy of MODE, for what the case starts from then on. No other case uses keys that begin as $key.
at() {                                              # MODE
    mode=$1
    key=${tmp##*/}-
    PASH_RENDEZVOUS=dynamodb:rdv
    AWS_REGION=us-east-1
    AWS_ACCESS_KEY_ID=AKID
    AWS_SECRET_ACCESS_KEY=secret/+=
    AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:$(port_in "$shared/servers" "$mode")
    export PASH_RENDEZVOUS AWS_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_ENDPOINT_URL_DYNAMODB
}
aws() { node --no-warnings .test/aws.js "$(port_in "$shared/servers" dynalite)" "$@"; }
requests() { grep -e "^$mode $key" "$shared/servers.log"; }     # what this case has asked the proxy of the mode
all_signed() {                                      # NAME: what this case has asked any proxy was signed well
    is "$1: all requests are signed well" '' "$(grep -e "^[a-z0-9]* $key" "$shared/servers.log" | grep -v ' signed ')"
}
# $tmp/in goes from S to R, which comes first.
meet() {                                            # NAME MODE-OF-S MODE-OF-R
    [ -f "$tmp/in" ] || seq 1000 >"$tmp/in"
    rm -f "$tmp/got"
    at "$3"
    bg R $P recv "$key" 1 0 "$tmp/got"
    until_true grep -q -e waiting -e again "$tmp/R.err"
    at "$2"
    bg S $P send "$key" 0 1 "$tmp/in"
    both "$1: exit statuses" '0 0'
    is "$1: the data" "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
}
# Both ends meet although R's proxy is of that mode, and R says WANT.
meet_although() {                                   # MODE WANT
    meet "$1" pass "$1"
    has "$1: told" "$tmp/R.err" "$2"
}
ends_empty() {                                      # NAME: no item of this case is in the table
    is "$1: the table is empty" '[]' "$(aws keys "$key")"
    all_signed "$1"
}
# The program says WANT, which is no reason to try again, and ends long before it would give up waiting.
refused() {                                         # NAME WANT [SETTING...]
    refused_name=$1
    refused_want=$2
    shift 2
    refusals=$((${refusals-0} + 1))
    run env PASH_PEER_TIMEOUT_MS=300000 "$@" $P recv "$key$refusals" 1 0 "$tmp/x"
    is "$refused_name: exit status" 1 "$status"
    has "$refused_name: told" "$tmp/err" \
        "^pashlib: recv $key$refusals: rendezvous dynamodb:[a-z]* (us-east-1): $refused_want"
    hasnt "$refused_name: not tried again" "$tmp/err" 'trying again'
}
# The credentials are those of a role from then on, and IMDS behaves as the mode says. Each case has an IMDS of its own.
role() {                                            # MODE
    if [ ! -f "$tmp/imds" ]; then
        bg imds python3 .test/imds.py "$tmp/imds"
        until_true test -f "$tmp/imds"
    fi
    AWS_ACCESS_KEY_ID=''
    AWS_SECRET_ACCESS_KEY=''
    AWS_EC2_METADATA_DISABLED=''
    AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:$(port_in "$tmp/imds" "$1")
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT
}
fetches() { grep -c 'my+role' "$tmp/imds.log"; }     # how often the case has asked for the credentials of a role
has_fetched() { [ "$(fetches)" -ge "$1" ]; }
has_looked() { [ "$(requests | grep -c ' GetItem ')" -ge "$1" ]; }

dynamodb_first() { # two ends meet, say where they do, and leave nothing in the table
    meet 'DynamoDB' pass pass
    has 'it says where it waits' "$tmp/R.err" "^pashlib: recv $key: waiting for node 0 at dynamodb:rdv (us-east-1)\$"
    has 'it says which rendezvous is used' "$tmp/S.err" "^pashlib: rendezvous dynamodb:rdv (us-east-1)\$"
    ends_empty 'DynamoDB'
}

dynamodb_second() { # the second to come needs one request before it connects: neither gets an answer to a look
    meet 'the second to come' hanglook hanglook
    is 'each registers once' 2 "$(requests | grep -c 'UpdateItem signed .*"SET ')"
    ends_empty 'the second to come'
}

dynamodb_errors_pass() { # after throttling and errors of the server it tries again
    meet_although throttle 'UpdateItem: status 400 RequestLimitExceeded: slow down: trying again'
    meet_although err500 'UpdateItem: status 500: trying again'
    ends_empty 'errors that pass'
}

dynamodb_cut() { # after an answer that is cut in its head, its body or its chunks it tries again
    meet_although drop 'the answer is cut in its head: trying again'
    meet_although cutanswer 'the body is cut: .*: trying again'
    meet_although badchunk 'the body is cut in its chunks: trying again'
    ends_empty 'cut answers'
}

dynamodb_hang() { # after a request that is never answered it tries again
    meet_although hang 'no whole answer in time: trying again'
    ends_empty 'no answer'
}

dynamodb_forms() { # answers in rare forms are understood: byte by byte, more members, chunks, no length
    for form in pieces extra chunked nolen; do
        meet_although $form 'waiting for node 0'
    done
    ends_empty 'rare forms'
}

dynamodb_refused() { # what the service refuses for good ends the stream at once, with its reason
    at denied
    reason='User: \\x1b\[31mx is not authorized to perform: dynamodb:UpdateItem'
    refused 'no permission' "UpdateItem: status 400 AccessDeniedException: $reason\$"
    is 'no permission: asked once' 1 "$(requests | wc -l)"
    at badsig
    refused 'a bad signature' 'UpdateItem: status 400 InvalidSignatureException: The request signature'
    is 'a bad signature: asked once' 1 "$(requests | wc -l)"
    at pass
    refused 'wrong secret' 'UpdateItem: status 400 InvalidSignatureException: it differs' AWS_SECRET_ACCESS_KEY=wrong
    refused 'no table' 'UpdateItem: status 400 ResourceNotFoundException: Requested resource not found' \
        PASH_RENDEZVOUS=dynamodb:none
    is 'wrong secret, no table: asked once each' 2 "$(requests | wc -l)"
}

dynamodb_no_dynamodb() { # where there is no DynamoDB, that ends the stream at once, too
    at html403
    refused 'a 403 that is no JSON' 'UpdateItem: status 403$'
    at redirect
    refused 'a redirect' 'UpdateItem: status 302$'
    is 'a redirect: asked once' 1 "$(requests | wc -l)"
    refused 'nobody at the endpoint' '127.0.0.1:9: Connection refused$' AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:9
    refused 'an endpoint without a name' 'name look-up of no.such.name.invalid: ' \
        AWS_ENDPOINT_URL_DYNAMODB=http://no.such.name.invalid
}

dynamodb_errors_stay() { # errors to the end: tried again until the time is over, and then it says both
    at always500
    run env PASH_PEER_TIMEOUT_MS=1500 $P recv "$key" 1 0 "$tmp/x"
    is 'errors to the end: exit status' 1 "$status"
    has 'errors to the end: told' "$tmp/err" \
        "recv $key: node 0 did not register at dynamodb:rdv (us-east-1) within [0-9.]* s"
    has 'errors to the end: why' "$tmp/err" 'UpdateItem: status 500 InternalServerError: broken: trying again'
    all_signed 'errors to the end'
}

dynamodb_looks() { # it looks for the peer from 50 ms to 1 s apart
    at pass
    bg R env PASH_PEER_TIMEOUT_MS=120000 $P recv "$key" 1 0 "$tmp/x"
    until_true has_looked 11
    is 'it looks again and again' 0 $?
    # The ten pauses should be 75, 112, 168, 253, 380, 570, 854 and three times 1,000 ms; delays can make some longer.
    requests | awk '$4 == "GetItem" && n++ < 11 { if (n > 1) print $3 - last; last = $3 }' >"$tmp/pauses"
    first=$(head -n 3 "$tmp/pauses" | sort -n | head -n 1)
    seven=$(head -n 7 "$tmp/pauses" | awk '{ n += $1 } END { print n }')
    last=$(tail -n 2 "$tmp/pauses" | sort -n | head -n 1)
    at_most 'the shortest of the first pauses, in ms' 350 "$first"
    is "the first seven pauses grow: they take $seven ms, at least 2,000" 1 $((seven >= 2000))
    is "the shorter of the last two pauses is about 1 s: $last ms" 1 $((last >= 900 && last <= 1600))
    kill "$(pid R)"
    ended R
    all_signed 'looks'
}

dynamodb_old_items() { # as deployments have it: the SDK reads what we register, and we read what it registers
    at pass
    odd="${key}old \"k\\é"
    bg R env PASH_CONNECT_TIMEOUT_MS=1500 PASH_PEER_TIMEOUT_MS=120000 $P recv "$odd" 1 0 "$tmp/x"
    until_true grep -q waiting "$tmp/R.err"
    is 'the SDK reads our registration' '{"local_addr":"127.0.0.1:P","external_addr":"127.0.0.1:P"}' \
        "$(aws text "$odd" N_1 | sed 's/1:[0-9][0-9]*/1:P/g')"
    is 'the SDK registers' 'done' \
        "$(aws put "$odd" N_0 '{"external_addr": "127.0.0.2:9", "local_addr": "127.0.0.1:9"}')"
    ended R
    has 'and we read what it registers' "$tmp/R.err" \
        'no connection to node 0 (external 127.0.0.2:9, local 127.0.0.1:9) from '
    is 'only our attribute is withdrawn' '["N_0","key"]' "$(aws names "$odd")"
    all_signed 'old items'
}

dynamodb_stale() { # a registration that an earlier run left, in a big item, does not stop two ends
    seq 1000 >"$tmp/in"
    at pass
    is 'a stale registration' 'done' \
        "$(aws put "$key" N_0 '{"external_addr":"127.0.0.1:9","local_addr":"127.0.0.1:9"}')"
    is 'an item of 300 KB' 'done' "$(aws fill "$key" 300000)"
    bg R $P recv "$key" 1 0 "$tmp/got"
    until_true grep -q connecting "$tmp/R.err"
    bg S $P send "$key" 0 1 "$tmp/in"
    both 'a stale registration in an item of 300 KB' '0 0'
    is 'its item is gone' 'no item' "$(aws names "$key")"
    all_signed 'a stale registration'
}

dynamodb_delete_throttled() { # a DeleteItem that is throttled is tried again
    meet 'DeleteItem is throttled' throttledelete throttledelete
    is 'DeleteItem is throttled: asked twice' 2 "$(requests | grep -c ' DeleteItem ')"
    is 'DeleteItem is throttled: the item is gone' 'no item' "$(aws names "$key")"
    all_signed 'DeleteItem is throttled'
}

dynamodb_withdrawing_hangs() { # withdrawing that hangs delays no data and changes no exit status
    seq 1000 >"$tmp/in"
    at pass
    bg R $P recv "$key" 1 0 "$tmp/got"
    at hangremove
    bg S $P send "$key" 0 1 "$tmp/in"
    ended R
    is 'the receiver: exit status' 0 "$status"
    is 'the receiver does not wait for it' 'S runs' "$([ -f "$tmp/S.rc" ] || echo 'S runs')"
    ended S
    is 'the sender: exit status' 0 "$status"
    has 'the sender tells' "$tmp/S.err" 'withdrawing the registration: '
    is 'what is left is that' '["N_0","key"]' "$(aws names "$key")"
    all_signed 'withdrawing hangs'
}

dynamodb_eight() { # eight processes at once, four streams each, two each way
    seq 1000 >"$tmp/in"
    at pass
    for i in 1 2 3 4; do
        bg "D$i" env PASH_LOG=error $P "send*${key}a$i*0*1*$tmp/in" "send*${key}b$i*0*1*$tmp/in" \
            "recv*${key}c$i*0*1*$tmp/c$i.got" "recv*${key}d$i*0*1*$tmp/d$i.got"
        bg "E$i" env PASH_LOG=error $P "recv*${key}a$i*1*0*$tmp/a$i.got" "recv*${key}b$i*1*0*$tmp/b$i.got" \
            "send*${key}c$i*1*0*$tmp/in" "send*${key}d$i*1*0*$tmp/in"
    done
    for i in D1 D2 D3 D4 E1 E2 E3 E4; do
        ended $i
        echo "$i: $status"
    done >"$tmp/statuses"
    is '8 processes: exit statuses' '' "$(grep -v ': 0$' "$tmp/statuses")"
    is '8 processes: the data' 16 \
        "$(for got in "$tmp"/[abcd][1234].got; do cmp -s "$got" "$tmp/in" && echo "$got"; done | wc -l)"
    ends_empty '8 processes'
}

dynamodb_no_credentials() { # without credentials that are good the stream ends at once, with the reason
    at expired
    refused 'an expired token of the environment' 'UpdateItem: status 400 ExpiredTokenException: ' \
        AWS_ACCESS_KEY_ID=OLD AWS_SECRET_ACCESS_KEY=oldsecret AWS_SESSION_TOKEN=session+token/==
    is 'an expired token of the environment: asked once' 1 "$(requests | wc -l)"
    at pass
    refused 'no credentials' \
        'no credentials: AWS_ACCESS_KEY_ID is not set; instance role: AWS_EC2_METADATA_DISABLED is true$' \
        AWS_ACCESS_KEY_ID= AWS_SECRET_ACCESS_KEY=
    is 'no credentials: DynamoDB is not asked' 0 "$(requests | wc -l)"
}

dynamodb_no_role() { # a role that gives no credentials ends the stream at once, with the reason
    at pass
    role norole
    refused 'no role' 'no credentials: .*: this instance has no role$'
    role rolefail
    refused 'a role whose Code is not Success' 'no credentials: .*my+role@x: its Code is Failed$'
    role rolemissing
    refused 'a role without a token' 'no credentials: .*my+role@x: a member is missing'
    is 'DynamoDB is not asked' 0 "$(requests | wc -l)"
}

dynamodb_role() { # 32 streams inherit the credentials of a role, and each renews them when they have expired
    seq 1000 >"$tmp/in"
    receivers=''
    senders=''
    at expired
    for i in $(seq 32); do
        receivers="$receivers recv*$key$i*1*0*$tmp/$i.got"
        senders="$senders send*$key$i*0*1*$tmp/in"
    done
    role role
    bg R env PASH_LOG=error PASH_PEER_TIMEOUT_MS=120000 PASH_CONNECT_TIMEOUT_MS=120000 $P $receivers
    at pass
    bg S env PASH_LOG=error PASH_PEER_TIMEOUT_MS=120000 PASH_CONNECT_TIMEOUT_MS=120000 $P $senders
    both '32 streams, credentials of a role that expire: exit statuses' '0 0'
    is '32 streams: the data' 32 "$(for got in "$tmp"/*.got; do cmp -s "$got" "$tmp/in" && echo "$got"; done | wc -l)"
    is 'they are fetched once at first, and by each stream when they have expired' 33 "$(fetches)"
    at expired
    is 'all 32 ask, with the token' 32 "$(requests | awk '$5 == "signed" { print $2 }' | sort -u | wc -l)"
    all_signed 'with the token'
}

dynamodb_role_stale() { # credentials past their Expiration are fetched anew, and used
    at pass
    role rolestale
    bg R $P recv "$key" 1 0 "$tmp/x"
    until_true has_fetched 3
    is 'credentials past their Expiration are fetched anew' 0 $?
    until_true has_looked 1
    has 'and used' "$tmp/R.err" "recv $key: waiting for node 0"
    kill "$(pid R)"
    ended R
    all_signed 'credentials past their Expiration'
}

dynamodb_role_once() { # a renewal that fails is no failure while the old credentials are good, and not tried each time
    at pass
    role roleonce
    run env PASH_PEER_TIMEOUT_MS=2000 $P recv "$key" 1 0 "$tmp/x"
    has 'is no failure' "$tmp/err" "recv $key: node 0 did not register"
    hasnt 'nor is the withdrawal' "$tmp/err" 'withdrawing'
    is 'it looks several times' yes "$(has_looked 3 && echo yes)"
    is 'a renewal is not tried at every look' 2 "$(fetches)"
    all_signed 'a renewal that fails'
}

dynamodb_role_v1() { # an IMDS that never answers PUT gives the credentials of a role all the same
    at pass
    role rolehang
    bg R $P recv "$key" 1 0 "$tmp/x"
    until_true grep -q "waiting for node" "$tmp/R.err"
    has 'it is no failure' "$tmp/R.err" "recv $key: waiting for node 0"
    is 'it has registered' 1 "$(requests | grep -c 'UpdateItem signed .*"SET ')"
    kill "$(pid R)"
    ended R
    all_signed 'an IMDS that never answers PUT'
}
