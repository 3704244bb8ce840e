# settings: the environment: what is wrong is named, and what is right is used

settings_wrong_values() { # a value that cannot be parsed: exit 2, named and shown, with what would do
    while IFS='|' read -r name value want; do
        run env "$name=$value" $P addr
        is "$name=$value: exit 2" "2 " "$status $(cat "$tmp/out")"
        shown=$(printf %s "$value" | sed 's/[][*.]/\\&/g')
        has "$name=$value: says so" "$tmp/err" "^pashlib: $name is \"$shown\": $want"
    done <<'TABLE'
PASH_STUN_TIMEOUT_MS|8s|want milliseconds, 0 to 86400000
PASH_STUN_TIMEOUT_MS|-1|want milliseconds
PASH_STUN_TIMEOUT_MS|86400001|want milliseconds
PASH_PEER_TIMEOUT_MS| 1|want milliseconds
PASH_CONNECT_TIMEOUT_MS|1.5|want milliseconds
PASH_PUBLIC_ADDR|203.0.113.7|want IP:PORT
PASH_PUBLIC_ADDR|203.0.113.7:70000|want IP:PORT
PASH_PUBLIC_ADDR|203.0.113.7:0|want IP:PORT
PASH_PUBLIC_ADDR|host:80|want IP:PORT
PASH_PUBLIC_ADDR|0.0.0.0:80|want IP:PORT
PASH_PUBLIC_ADDR|2001:db8::7:80|want IP:PORT
PASH_PUBLIC_IP|0.0.0.0|want the IP
PASH_PUBLIC_IP|224.0.0.1|want the IP
PASH_PUBLIC_IP|203.0.113|want the IP
PASH_PUBLIC_IP|203.0.113.7:80|want the IP
PASH_STUN_SERVER|a b|"a b" is no host name
PASH_STUN_SERVER|a,|want \[udp:|tcp:\]HOST
PASH_STUN_SERVER|,a|want \[udp:|tcp:\]HOST
PASH_STUN_SERVER|a:0|"a:0" is no HOST
PASH_STUN_SERVER|a:99999|"a:99999" is no HOST
PASH_STUN_SERVER|300.1.1.1|"300.1.1.1" is no host name
PASH_STUN_SERVER|0.0.0.0:3478|0.0.0.0 is not the address of one host
PASH_STUN_SERVER|tcp:|"" is no HOST or HOST:PORT
PASH_STUN_SERVER|a,b,c,d,e,f,g,h,i|want at most 8 servers
PASH_RENDEZVOUS|/tmp/x|want dir:PATH or dynamodb:TABLE
PASH_RENDEZVOUS|dir:|want a PATH
PASH_RENDEZVOUS|dynamodb:|want a TABLE
PASH_RENDEZVOUS|dynamodb:ab|want a TABLE of 3 to 255
PASH_RENDEZVOUS|dynamodb:a b c|want a TABLE
AWS_ENDPOINT_URL|dynamodb.us-east-1.amazonaws.com|want http://HOST
AWS_ENDPOINT_URL_DYNAMODB|ftp://x|want http://HOST
AWS_REGION|us east|want printable ASCII
AWS_ACCESS_KEY_ID|a b|want printable ASCII
PASH_LOG|loud|want error, info or debug
AWS_EC2_METADATA_SERVICE_ENDPOINT|https://169.254.169.254|want http://HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|169.254.169.254|want http://HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|http://|"" is no HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|http://a:b/|"a:b" is no HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|http://u@h/|"u@h" is no host name
TABLE
}
settings_wrong_is_wrong() { # all wrong settings are named at once, and whatever the command is
    run env PASH_LOG=loud PASH_STUN_TIMEOUT_MS=x $P addr
    is 'all wrong settings are named' 2 "$(grep -c ' is "' "$tmp/err")"
    run env PASH_LOG=loud $P send k 1 1
    is 'a wrong setting is wrong for send too' 2 $status
}
settings_empty() { # an empty value is as good as none
    run env PASH_PUBLIC_ADDR= PASH_PUBLIC_IP= PASH_STUN_SERVER= PASH_LOG= PASH_RENDEZVOUS= PASH_STUN_TIMEOUT_MS= $P addr
    is 'empty is as good as none' '0 source=local' "$status $(grep source "$tmp/out")"
}
settings_secrets() { # a wrong token is named, but not shown
    run env "AWS_SESSION_TOKEN=$(printf 'hush\r')" $P addr
    is 'a token with a control character' 2 $status
    hasnt 'and it is not shown' "$tmp/err" hush
}
settings_no_holepunch() { # PASH_NO_HOLEPUNCH: anything but 0, false and nothing means no STUN
    for v in 1 true yes x; do
        run env PASH_NO_HOLEPUNCH=$v $P addr
        has "PASH_NO_HOLEPUNCH=$v" "$tmp/err" 'STUN discovery failed: skipped (PASH_NO_HOLEPUNCH)'
    done
    for v in 0 false ''; do
        run env PASH_NO_HOLEPUNCH=$v PASH_STUN_TIMEOUT_MS=0 $P addr
        has "PASH_NO_HOLEPUNCH=$v" "$tmp/err" 'STUN discovery failed: skipped (PASH_STUN_TIMEOUT_MS=0)'
    done
}
settings_default_rendezvous() { # the rendezvous is DynamoDB where a region is set, otherwise a directory
    for v in AWS_REGION AWS_DEFAULT_REGION; do
        run env -u PASH_RENDEZVOUS $v=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:9 $P send k 1 2
        is "$v: the rendezvous is DynamoDB" 1 $status
        has "$v: the rendezvous is DynamoDB, told" "$tmp/err" '^pashlib: rendezvous dynamodb:rdv (us-east-1)$'
    done
    run env -u PASH_RENDEZVOUS PASH_PEER_TIMEOUT_MS=300 $P send k 1 2
    has 'a directory' "$tmp/err" "node 2 did not register at dir:$tmp/pashlib-$(id -u) within 0.3 s"
}
settings_dynamodb() { # settings with which DynamoDB cannot be used: exit 2, and why
    while IFS='|' read -r words want; do
        run env PASH_RENDEZVOUS=dynamodb:rdv AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:9 $words \
            $P send k 1 2
        is "DynamoDB, $words: exit 2" 2 $status
        has "DynamoDB, $words: told" "$tmp/err" "^pashlib: .*$want"
    done <<'TABLE'
AWS_REGION=|neither AWS_REGION nor AWS_DEFAULT_REGION is set
AWS_ENDPOINT_URL_DYNAMODB=https://db.us-east-1.amazonaws.com|endpoint https://db.us-east-1.amazonaws.com: .*http://
AWS_ENDPOINT_URL=https://127.0.0.1|endpoint https://127.0.0.1: .*http://
AWS_ENDPOINT_URL= AWS_REGION=us-iso-east-1|region us-iso-east-1: set AWS_ENDPOINT_URL_DYNAMODB
AWS_ENDPOINT_URL= AWS_REGION=eusc-de-east-1|region eusc-de-east-1: set AWS_ENDPOINT_URL_DYNAMODB
AWS_ENDPOINT_URL= AWS_REGION=a/b|region a/b is none
AWS_ACCESS_KEY_ID=AKID|AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only the former is set
AWS_SECRET_ACCESS_KEY=s|AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only the latter is set
TABLE
    run env AWS_ENDPOINT_URL=https://127.0.0.1 $P addr
    is 'an https:// endpoint where DynamoDB is not used' 0 $status
}
settings_endpoints() { # the endpoint of DynamoDB is the one of the region
    [ -n "${PASHLIB_NS-}" ] || { skip 'endpoints' 'without a network namespace, real ones would be asked'; return; }
    for region in us-east-1:amazonaws.com cn-north-1:amazonaws.com.cn; do
        run env PASH_RENDEZVOUS=dynamodb:rdv AWS_REGION=${region%:*} AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b \
            $P send k 1 2
        has "the endpoint in ${region%:*}" "$tmp/err" \
            "send k: rendezvous dynamodb:rdv (${region%:*}): name look-up of dynamodb.${region%:*}.${region#*:}: "
    done
}
