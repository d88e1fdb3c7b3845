# Writes config maps one after the other until /tmp/enough is there, and removes that when it is done. The name of each
# that the API server acknowledged goes into /tmp/acknowledged. The argument is the data directory.
pki=$1/pki n=0
: >/tmp/acknowledged
while [ ! -e /tmp/enough ]; do
  n=$((n + 1))
  code=$(curl -s -o /dev/null -w '%{http_code}' --max-time 10 --cacert "$pki/ca.crt" --cert "$pki/admin.crt" \
    --key "$pki/admin.key" -H 'Content-Type: application/json' \
    -d '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"write-'$n'"},"data":{"n":"'$n'"}}' \
    https://127.0.0.1:6443/api/v1/namespaces/chaos/configmaps)
  [ "$code" != 201 ] || echo "write-$n" >>/tmp/acknowledged
  sleep 0.1
done
rm /tmp/enough
