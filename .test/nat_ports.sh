# nat_ports: hosts behind boxes that give TCP and UDP different ports, where STUN is asked by TCP; 20 times, as in nat

. .test/lab/lab.sh

nat_ports_setup() {
    lab udp1 udp2 tcp1 tcp2 open1 sg1 drop1 rst3
}
by_tcp=PASH_STUN_SERVER=tcp:203.0.113.1,udp:203.0.113.2

nat_ports_udp() { # the box gives UDP another port, and TCP keeps its own
    joins 20 udp1 udp2 $by_tcp
    joins 20 udp1 open1 $by_tcp
    joins 20 udp1 sg1 $by_tcp
    joins 20 udp1 drop1 $by_tcp
}
nat_ports_tcp() { # the box gives TCP another port, and UDP keeps its own
    joins 20 tcp1 tcp2 $by_tcp
    joins 20 tcp1 open1 $by_tcp
    joins 20 tcp1 sg1 $by_tcp
    joins 20 tcp1 drop1 $by_tcp
    joins 20 tcp1 udp1 $by_tcp
    joins 20 tcp1 rst3 $by_tcp
}
