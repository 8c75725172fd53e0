#!/bin/busybox sh
# Process 1 of the imaging environment: devices, drivers and an address, and then bash, as there. For busybox' own shell
# would take its own tar and wget before those of PATH.
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
until [ -e /sys/class/net/eth0 ] && [ -b /dev/vda ]; do $b sleep 0.05; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
exec bash /genesis/doxcat
