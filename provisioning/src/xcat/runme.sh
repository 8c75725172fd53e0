#!/bin/sh
# vcld's imaging task: copies a node's disk to the daemon (capture), or from it (restore). The service system of a
# provisioning server fetches it with wget, unpacks it and runs it here, in the directory it was unpacked to.
#
# Beside it lie `task` (what is to be done, as shell assignments), `inner.key` and `outer.key` (the two padded halves of
# an HMAC key) and, for a restore, `sums` (the SHA-256 of each chunk of the disk that is wanted, a line each).
#
# Needs: a POSIX shell with 64-bit arithmetic; curl or GNU wget (busybox's does for a restore: what it posts ends
# at the first zero byte); openssl or sha256sum; dd, cat, wc, rm, sleep; /sys and /dev; some 12 MiB here. Its exit
# status is seen by nobody, so everything is told to the daemon: progress, the result, and what went wrong.
set -u
LC_ALL=C
# It is started for each chunk, and reading its configuration is most of what that takes.
OPENSSL_CONF=/dev/null
export LC_ALL OPENSSL_CONF
. ./task

# Two words for the same: the SHA-256 of what comes in, in hexadecimal digits and with something behind it.
if command -v openssl >/dev/null 2>&1; then
    sha() { openssl dgst -sha256 -r; }
else
    sha() { sha256sum; }
fi

# The SHA-256 of a file; answers in $sum.
digest() {
    sum=$(sha <"$1") || return 1
    sum=${sum%% *}
    [ ${#sum} -eq 64 ]
}

# The HMAC-SHA256 of a text; answers in $mac. Where there is no openssl it is put together from two digests.
if command -v openssl >/dev/null 2>&1; then
    mac() {
        mac=$(printf %s "$1" | openssl dgst -sha256 -hmac "$KEY" -r) || return 1
        mac=${mac%% *}
    }
else
    mac() {
        mac=$({ cat inner.key && printf %s "$1"; } | sha) || return 1
        rest=${mac%% *}
        bytes=
        while [ -n "$rest" ]; do
            after=${rest#??}
            byte=$((0x${rest%"$after"}))
            rest=$after
            bytes="$bytes\\0$((byte >> 6))$((byte >> 3 & 7))$((byte & 7))"
        done
        mac=$({ cat outer.key && printf %b "$bytes"; } | sha) || return 1
        mac=${mac%% *}
    }
fi

# curl or wget, whichever is there. curl can tell an answer that will not change from one that may.
tool=
for candidate in curl wget; do
    if [ -z "$tool" ] && command -v "$candidate" >/dev/null 2>&1; then tool=$candidate; fi
done

# send NAME FILE RANGE: leaves a file with the daemon. Tried again for some minutes: the daemon may be restarting.
send() {
    digest "$2" && mac "PUT $1 $3 $sum" || return 1
    try=0
    while [ "$try" -lt "$TRIES" ]; do
        if [ "$tool" = curl ]; then
            code=$(curl -s -m 300 --connect-timeout 20 -X PUT -H 'Expect:' -H 'Content-Type: application/octet-stream' \
                -H "Content-Range: $3" -H "X-Vcl-Digest: $sum" -H "X-Vcl-Mac: $mac" --data-binary "@$2" -o answer -w '%{http_code}' "$URL/$1")
            case $code in
                2??) return 0 ;;
                408 | 429) ;;
                4??) return 1 ;;
            esac
        elif wget -q -O answer --header 'Content-Type: application/octet-stream' --header "Content-Range: $3" \
            --header "X-Vcl-Digest: $sum" --header "X-Vcl-Mac: $mac" --post-file="$2" "$URL/$1" 2>/dev/null; then
            return 0
        fi
        try=$((try + 1))
        sleep "$PAUSE"
    done
    return 1
}

# fetch WHAT FILE: has something from the daemon.
fetch() {
    try=0
    while [ "$try" -lt "$TRIES" ]; do
        if [ "$tool" = curl ]; then
            code=$(curl -s -m 300 --connect-timeout 20 -o "$2" -w '%{http_code}' "$URL/$1")
            case $code in
                2??) return 0 ;;
                408 | 429) ;;
                4??) return 1 ;;
            esac
        elif wget -q -O "$2" "$URL/$1" 2>/dev/null; then
            return 0
        fi
        try=$((try + 1))
        sleep "$PAUSE"
    done
    return 1
}

# Ends the task. The daemon cuts the power when it has the result; if it does not, the service system goes on.
over() {
    sleep "$WAIT"
    exit "$1"
}

fail() {
    echo "vcld: $*" >&2
    printf 'result failed\ntext %s\n' "$*" >report
    send result report - || echo "vcld: the daemon could not be told" >&2
    over 1
}

progress() {
    quiet=$((quiet + 1))
    [ "$quiet" -ge 16 ] || return 0
    quiet=0
    printf '%s %s\n' "$1" "$2" >reached
    send at reached - || fail "the daemon does not take progress any more"
}

# Which disk: the one that was named, or the only one there is. Answers in $disk and $size.
find_disk() {
    disk=$DISK
    if [ -z "$disk" ]; then
        for entry in /sys/class/block/*; do
            name=${entry##*/}
            case $name in
                sd*[0-9] | vd*[0-9] | hd*[0-9] | xvd*[0-9] | nvme*p[0-9]*) continue ;;
                sd* | vd* | hd* | xvd* | nvme*n*) ;;
                *) continue ;;
            esac
            read -r removable <"$entry/removable" && read -r sectors <"$entry/size" || continue
            if [ "$removable" = 1 ] || [ "$sectors" -eq 0 ]; then continue; fi
            disk="$disk /dev/$name"
        done
        disk=${disk# }
        case $disk in
            '') fail "no disk was found; is its driver in the service system?" ;;
            *' '*) fail "there are several disks ($disk); name the one to image in the backend's configuration: disk = \"...\"" ;;
        esac
    fi
    if [ -L "$disk" ]; then disk=$(readlink -f "$disk"); fi
    if [ -b "$disk" ]; then
        read -r sectors <"/sys/class/block/${disk##*/}/size" || fail "the size of $disk cannot be read"
        size=$((sectors * 512))
    elif [ -f "$disk" ]; then
        size=$(($(wc -c <"$disk")))
    else
        fail "there is no disk $disk"
    fi
    [ "$size" -gt 0 ] || fail "$disk is empty"
}

# Whether whole chunks can go around the cache, which is of no use to a disk that is read once and costs much: answers in
# $reads and $writes, as words for dd.
find_direct() {
    reads=
    writes=
    if [ ! -b "$disk" ] || [ "$size" -lt "$CHUNK" ]; then return 0; fi
    if dd if="$disk" of=/dev/null bs="$CHUNK" count=1 iflag=direct 2>/dev/null; then reads=iflag=direct; fi
    if [ -n "$reads" ] && dd if=/dev/zero of="$disk" bs="$CHUNK" count=0 conv=notrunc oflag=direct 2>/dev/null; then writes=oflag=direct; fi
}

# read_chunk NUMBER LENGTH: reads a piece of the disk into `chunk`; its digest in $sum.
read_chunk() {
    if [ "$2" -eq "$CHUNK" ]; then
        count=1
        # shellcheck disable=SC2086 # it is a word or nothing
        said=$(dd if="$disk" of=chunk bs="$CHUNK" skip="$1" count=1 $reads 2>&1)
    else
        count=$((($2 + 511) / 512))
        said=$(dd if="$disk" of=chunk bs=512 skip=$(($1 * (CHUNK / 512))) count="$count" 2>&1)
    fi || fail "reading $disk at byte $(($1 * CHUNK)) failed ($said); is the disk well?"
    case $said in
        "$count+0 records in"*) ;;
        *) fail "$disk gave less than $2 bytes at byte $(($1 * CHUNK)) ($said); is the disk well?" ;;
    esac
    digest chunk || fail "neither openssl nor sha256sum works here"
}

# write_chunk NUMBER LENGTH: writes `chunk` to the disk.
write_chunk() {
    if [ "$2" -eq "$CHUNK" ]; then
        # shellcheck disable=SC2086 # it is a word or nothing
        dd if=chunk of="$disk" bs="$CHUNK" seek="$1" conv=notrunc $writes 2>/dev/null
    else
        dd if=chunk of="$disk" bs="$CHUNK" seek="$1" conv=notrunc 2>/dev/null
    fi || fail "writing $disk at byte $(($1 * CHUNK)) failed; is the disk well?"
}

# length_of NUMBER OF: how much of a disk of so many bytes is in a chunk; answers in $length.
length_of() {
    length=$(($2 - $1 * CHUNK))
    if [ "$length" -gt "$CHUNK" ]; then length=$CHUNK; fi
}

# The digest of so many zeros; answers in $zero.
zeros() {
    dd if=/dev/zero of=zero bs="$1" count=1 2>/dev/null
    zero=$(sha <zero)
    zero=${zero%% *}
    rm -f zero
}

capture() {
    if [ "$tool" = wget ]; then
        case $(wget --help 2>&1) in
            *BusyBox*) fail "busybox's wget cannot send a disk; the service system needs curl or GNU wget" ;;
        esac
    fi
    if [ "$size" -gt "$MOST" ]; then fail "$disk has $size bytes and at most $MOST are taken"; fi
    chunks=$(((size + CHUNK - 1) / CHUNK))
    printf 'vcl-disk 1 %s %s\n' "$size" "$CHUNK" >sums
    fetch have have || fail "the daemon does not say what it has already"
    # What it has comes in order, so one look ahead is enough.
    exec 3<have
    there=-1
    there_sum=
    zeros "$CHUNK"
    n=0
    while [ "$n" -lt "$chunks" ]; do
        length_of "$n" "$size"
        if [ "$length" -ne "$CHUNK" ]; then zeros "$length"; fi
        read_chunk "$n" "$length"
        echo "$sum" >>sums
        while [ "$there" -lt "$n" ]; do
            read -r there there_sum <&3 || there=$chunks
        done
        if [ "$there" -eq "$n" ]; then known=$there_sum; else known=$zero; fi
        if [ "$sum" != "$known" ]; then
            from=$((n * CHUNK))
            send disk0 chunk "bytes $from-$((from + length - 1))/$size" ||
                fail "the daemon does not take the disk's bytes at $from"
        fi
        n=$((n + 1))
        progress $((n * CHUNK)) "$size"
    done
    exec 3<&-
    digest sums
    printf 'result ok\nsize %s\ndigest %s\n' "$size" "$sum" >report
}

restore() {
    if [ "$SIZE" -gt "$size" ]; then fail "$disk has $size bytes and the image has $SIZE; it needs a larger disk"; fi
    chunks=$(((SIZE + CHUNK - 1) / CHUNK))
    whole=$(((size + CHUNK - 1) / CHUNK))
    zeros "$CHUNK"
    : >written
    exec 3<sums
    n=0
    while [ "$n" -lt "$chunks" ]; do
        read -r want <&3 || fail "the list of what is wanted ends before the disk does"
        length_of "$n" "$SIZE"
        read_chunk "$n" "$length"
        if [ "$sum" != "$want" ]; then
            fetch "disk0?chunk=$n" chunk || fail "the daemon does not give chunk $n"
            digest chunk
            [ "$sum" = "$want" ] || fail "chunk $n came as $sum and not as $want"
            write_chunk "$n" "$length"
            echo "$n $length $want" >>written
        fi
        n=$((n + 1))
        progress $((n * CHUNK)) "$size"
    done
    exec 3<&-
    # Beyond the image nothing may be left of whoever had the disk before.
    length_of $((chunks - 1)) "$SIZE"
    if [ "$length" -lt "$CHUNK" ]; then
        end=$((chunks * CHUNK))
        if [ "$end" -gt "$size" ]; then end=$size; fi
        if [ "$end" -gt "$SIZE" ]; then
            dd if=/dev/zero of="$disk" bs=512 seek=$((SIZE / 512)) count=$(((end - SIZE) / 512)) conv=notrunc 2>/dev/null ||
                fail "writing $disk at byte $SIZE failed; is the disk well?"
        fi
    fi
    while [ "$n" -lt "$whole" ]; do
        length_of "$n" "$size"
        if [ "$length" -ne "$CHUNK" ]; then zeros "$length"; fi
        read_chunk "$n" "$length"
        if [ "$sum" != "$zero" ]; then
            dd if=/dev/zero of=chunk bs="$length" count=1 2>/dev/null
            write_chunk "$n" "$length"
        fi
        n=$((n + 1))
        progress $((n * CHUNK)) "$size"
    done
    # What is in memory goes to the disk: this writes nothing itself.
    dd if=/dev/zero of="$disk" bs=512 count=0 conv=notrunc,fsync 2>/dev/null || fail "$disk cannot be flushed; is it well?"
    # From the disk, not from memory.
    if [ -b "$disk" ] && [ -w /proc/sys/vm/drop_caches ]; then echo 3 >/proc/sys/vm/drop_caches; fi
    while read -r n length want; do
        read_chunk "$n" "$length"
        [ "$sum" = "$want" ] || fail "chunk $n of $disk reads as $sum after it was written as $want; is the disk well?"
        progress "$size" "$size"
    done <written
    digest sums
    printf 'result ok\nsize %s\ndigest %s\n' "$SIZE" "$sum" >report
}

quiet=15
disk=
[ -n "$tool" ] || { echo "vcld: neither curl nor wget is here" >&2; exit 1; }
find_disk
find_direct
case $MODE in
    capture) capture ;;
    restore) restore ;;
    *) fail "the task \`$MODE\` is not known" ;;
esac
rm -f chunk
send result report - || echo "vcld: the daemon could not be told" >&2
over 0
