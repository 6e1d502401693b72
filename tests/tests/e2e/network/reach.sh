# Prints what of the network it reaches.
try() { name=$1; shift; timeout 30 "$@" >/dev/null 2>&1 && echo "$name"; }
get() { timeout 30 curl -sk "$@" || echo "none: $*"; }
get https://good.names.test/
get http://good.names.test:8000/
get https://alias.names.test/
get https://through.names.test/
python3 /dns.py 169.254.53.53 udp inside.names.test A
{
    try sibling curl -sk --resolve sibling.names.test:443:198.51.100.1 https://sibling.names.test/ &
    try sibling-by-name curl -s http://sibling.names.test:8000/ &
    try address curl -s http://198.51.100.9:8000/ &
    try address-6 curl -sg 'http://[2001:db8::9]:8000/' &
    try tls curl -sk https://198.51.100.9/ &
    try dns-over-tls curl -sk https://198.51.100.1:853/ &
    try icmp ping -c 1 -W 20 198.51.100.9 &
    try icmp-6 ping -c 1 -W 20 2001:db8::9 &
    try dns-udp python3 /dns.py 198.51.100.9 udp tunnel.test A &
    try dns-tcp python3 /dns.py 198.51.100.9 tcp tunnel.test A &
    try dns-udp-6 python3 /dns.py 2001:db8::9 udp tunnel.test A &
    wait
} | sort
