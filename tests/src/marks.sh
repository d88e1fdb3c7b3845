# Prints each kind of mark under a heading; see marks.rs. Processes that came with this script do not count.
heading() { echo "# $1"; }

heading processes
ps -eo pid=,ppid=,args= | awk -v own=$$ '$1 == 1 || $1 != own && $2 != own && $2 != 0 { $1 = $2 = ""; print }'
heading mounts
awk '{ print $4, $5, $9, $10 }' /proc/self/mountinfo
heading cgroups
awk '{ print $1, $3 }' /proc/cgroups
heading links
ip -o link | sed 's/^[0-9]*: //'
heading addresses
ip -o address | awk '{ print $2, $3, $4 }'
heading routes
ip route
heading namespaces
readlink /proc/[0-9]*/ns/mnt /proc/[0-9]*/ns/net | sort -u
ls -A /run/netns 2>/dev/null
heading 'nat rules'
iptables-legacy-save -t nat | sed -e '/^#/d' -e 's/\[.*\]//'
heading sysctls
grep -r '' /proc/sys 2>/dev/null | grep -v -e random -e 'fs/file-nr' -e 'fs/inode'
heading files
find / \( -path /proc -o -path /sys -o -path /opt/terrarium -o -path /var/lib/terrarium -o -path /root/.kube \
  -o -path /home/user/.local -o -path /home/user/.kube \) -prune \
  -o \( -type f -printf '%y %m %s %p\n' -o -printf '%y %m %p\n' \)
exit 0
