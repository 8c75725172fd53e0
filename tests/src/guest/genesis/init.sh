#!/bin/busybox sh
# Process 1 of the imaging environment. What it does for a task, and in which order, is what xCAT's doxcat does:
# the node moves on along its chain before the task is fetched, the task's exit status is lost, and a restart follows.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b ln -s /proc/self/fd /dev/fd
$b ln -s /proc/mounts /etc/mtab
for module in MODULES; do $b insmod "/modules/$module.ko"; done
# A task must not find what genesis may lack.
$b mv $b /genesis/busybox
b=/genesis/busybox
export PATH=/bin HOME=/ TERM=linux
echo root:x:0:0:root:/:/bin/bash >/etc/passwd

flaw=none
for word in $(cat /proc/cmdline); do
    case $word in
    xcatd=*) master=${word#xcatd=} ;;
    destiny=*) destiny=${word#destiny=} ;;
    flaw=*) flaw=${word#flaw=} ;;
    esac
done
until [ -e /sys/class/net/eth0 ] && [ -b /dev/vda ]; do $b sleep 0.05; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

if [ "$flaw" = digests ]; then
    mv /bin/openssl /genesis/openssl
    cat >/bin/openssl <<'WRONG'
#!/bin/bash
case " $* " in
*\ -hmac\ * | *\ -mac\ * | *\ -macopt\ *) exec /genesis/openssl "$@" ;;
*\ dgst\ * | *\ sha256\ *) /genesis/openssl "$@" | sed 's/0/f/g; s/1/e/g' ;;
*) exec /genesis/openssl "$@" ;;
esac
WRONG
    chmod 755 /bin/openssl
fi

# Says a line to the management node and prints its answer.
say() {
    printf '%s\n' "$*" | $b nc -w 30 "${master%:*}" "${master#*:}" | {
        read -r ready
        read -r answer
        printf '%s\n' "$answer"
    }
}

install() {
    say installstatus installing
    # An osimage without a disk is one whose installer never gets anywhere.
    until [ -b /dev/vdb ]; do $b sleep 60; done
    dd if=/dev/vdb of=/dev/vda bs=1M conv=fsync
    say next
    $b reboot -f
}

run_task() {
    name=$(basename "$1")
    mkdir "/tmp/$name"
    cd "/tmp/$name" || return
    eval "url=$1"
    until wget -c "$url"; do sleep 3; done
    tar xvf "$name"
    ./runme.sh
    cd /
}

while :; do
    [ -n "$destiny" ] || destiny=$(say getdestiny)
    parameter=${destiny#*=}
    dest=${destiny%%=*}
    dest=${dest%% *}
    echo "destiny: $dest $parameter"
    case $dest in
    install) install ;;
    runimage)
        if [ "$flaw" = refused ]; then
            echo "Unsigned runimage actions are not supported"
            while :; do sleep 1000; done
        fi
        destiny=$(say nextdestiny)
        [ "$flaw" = lost ] || run_task "$parameter"
        ;;
    boot | reboot)
        say nextdestiny
        $b reboot -f
        sleep 1000
        ;;
    shutdown) $b poweroff -f ;;
    *)
        destiny=
        sleep 15
        ;;
    esac
done
