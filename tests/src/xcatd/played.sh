# A node that is played: what its boot state has it boot, without a machine. Process 1 of namespaces of its own; its disk
# is a file, the task that it fetches is run in earnest, and nothing else of this host can be reached by that task.
#   $1 genesis | disk   $2 the disk's file   $3 its console   $4 where its ssh server listens, or the boot state
#   $5 the port of the management node   $6 what goes wrong
# Lines on standard output are events, as qemu tells them; lines on standard input are orders to it.
set -eu
exec 5<&0 4>&1 0</dev/null >>"$3" 2>&1

# Its own /dev has no disks: a task that looks for one by itself finds none. Its disk lies under /mnt.
mount -t tmpfs tmpfs /mnt
: >/mnt/disk
mount --bind "$2" /mnt/disk
mount -t tmpfs tmpfs /tmp
mkdir /tmp/dev
for device in null zero random urandom; do
    : >"/tmp/dev/$device"
    mount --bind "/dev/$device" "/tmp/dev/$device"
done
ln -s /proc/self/fd /tmp/dev/fd
mount --rbind /tmp/dev /dev
for device in /dev/*; do
    [ ! -b "$device" ] || { echo "$device is a disk of the host's"; exit 1; }
done

trap 'exit 0' USR1
ends() {
    printf '{"event":"SHUTDOWN","data":{"reason":"%s"}}\n' "$1" >&4
    kill -USR1 1
    sleep 1000
}

# Says a line to the management node and prints its answer.
say() {
    exec 6<>"/dev/tcp/127.0.0.1/$port"
    printf '%s\n' "$*" >&6
    read -r _ <&6
    read -r answer <&6
    exec 6>&-
    printf '%s\n' "$answer"
}

# What xCAT's doxcat does, in its order: the node moves on before the task is fetched, whose exit status is lost.
genesis() {
    local destiny=$1 port=$2 flaw=$3 url name
    case $destiny in runimage=*) ;; *) sleep infinity ;; esac
    if [ "$flaw" = refused ]; then
        echo "Unsigned runimage actions are not supported"
        sleep infinity
    fi
    url=${destiny#runimage=}
    say nextdestiny
    if [ "$flaw" != lost ]; then
        name=$(basename "$url")
        mkdir "/tmp/$name"
        cd "/tmp/$name"
        until wget -nv -c "$url"; do sleep 1; done
        tar xf "$name"
        ./runme.sh || true
    fi
    say nextdestiny
    ends guest-reset
}

# An ssh server that says no more than what it is.
system() {
    exec perl -MIO::Socket::INET -e '
        my $socket;
        until ($socket) {
            $socket = IO::Socket::INET->new(LocalAddr => $ARGV[0], LocalPort => 22, Listen => 64, ReuseAddr => 1)
                or select(undef, undef, undef, 0.05);
        }
        while (my $client = $socket->accept) { print $client "SSH-2.0-played\r\n"; close $client }' "$1"
}

while read -r order; do
    case $order in
    *system_reset*) ends guest-reset ;;
    *system_powerdown*) [ "$1" = genesis ] || ends guest-shutdown ;;
    esac
done <&5 &
case $1 in
genesis) genesis "$4" "$5" "$6" & ;;
disk) system "$4" & ;;
esac
# A signal ends the wait, and the end of process 1 is everybody's.
while :; do wait || true; sleep 1; done
