#!/bin/bash
# What a task meets, and in which order, is what it meets in xCAT's doxcat: the node moves on along its chain before the
# task is fetched, the task's exit status is lost, and a restart follows.
b=/genesis/busybox
flaw=none
for word in $(cat /proc/cmdline); do
    case $word in
    xcatd=*) master=${word#xcatd=} ;;
    destiny=*) destiny=${word#destiny=} ;;
    flaw=*) flaw=${word#flaw=} ;;
    esac
done
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
    # Around the cache, which would be most of the work on an emulated CPU.
    dd if=/dev/vdb of=/dev/vda bs=4M iflag=direct oflag=direct conv=fsync status=progress
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
    echo "destiny: $destiny"
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
