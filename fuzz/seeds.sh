#!/bin/sh
# Writes the seed corpus: small inputs, as real tools produce them.
#
#   seeds.sh DIRECTORY
set -eu
out=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out/layer_stack" "$out/layer_index" "$out/image_documents" \
    "$out/reference" "$out/registry_access"

# Layers in every format of GNU tar.
mkdir "$work/one" "$work/two"
(
    cd "$work/one"
    mkdir -p a/b "$(printf 'd\377')"
    echo data >a/b/file
    ln a/b/file link
    ln -s ../a "$(printf 'l%.0s' $(seq 120))"
    ln -s "$(printf 't%.0s' $(seq 150))" long-target
    mkfifo fifo
    printf x >sparse
    truncate -s 100000 sparse
    printf y >>sparse
    truncate -s 300000 sparse
    chmod 4755 a/b/file
    # All times but one fit into a plain header.
    find . -exec touch -h -d @1000000000 {} +
    touch -h -d @-1.5 link
)
(
    cd "$work/two"
    mkdir a
    : >.wh.link
    : >a/.wh..wh..opq
    : >a/new
    mkdir fifo
    find . -exec touch -h -d @1000000000 {} +
)
# A link and a member behind it, whiteouts behind links, the content of a hard link as in AUFS.
mkdir "$work/three"
(
    cd "$work/three"
    mkdir -p behind .wh.d .wh..wh.plnk
    ln -s ../../run way
    : >behind/x
    : >behind/.wh.y
    : >behind/.wh..wh..opq
    : >.wh.d/f
    echo data >.wh..wh.plnk/1.2
    ln .wh..wh.plnk/1.2 linked
    find . -exec touch -h -d @1000000000 {} +
)
pack() { tar -c --sort=name --numeric-owner --record-size=512 "$@" -C "$work/one" .; }
for sparse in 0.0 0.1 1.0; do
    pack --format=posix --pax-option=delete=atime,delete=ctime --sparse --sparse-version=$sparse \
        >"$work/posix-$sparse.tar"
done
for format in gnu oldgnu; do
    pack --format=$format --sparse >"$work/$format.tar"
done
# The subset that the old formats can encode.
for format in v7 ustar; do
    tar -c --format=$format --sort=name --numeric-owner --mtime=@1000000000 \
        --record-size=512 -C "$work/one" a link >"$work/$format.tar"
done
tar -c --format=ustar --sort=name --record-size=512 -C "$work/two" . >"$work/two.tar"
(cd "$work/three" && tar -c --format=ustar --sort=name --numeric-owner --record-size=512 \
    --transform='s,^behind/,way/,rSH' .wh..wh.plnk linked way behind/* behind/.wh* .wh.d) \
    >"$work/three.tar"
for tar in "$work"/*.tar; do
    name=${tar##*/}
    {
        cat "$tar"
        printf '\n-- next --\n'
        cat "$work/two.tar"
    } >"$out/layer_stack/$name"
done
gzip -c "$work/two.tar" >"$out/layer_stack/two.gz"
if command -v zstd >/dev/null; then
    zstd -q -c "$work/two.tar" >"$out/layer_stack/two.zst"
fi

printf 'microagent layer index\n\001\002\000\004etc/\244\003\001\002\001\005\001\006user.a\001v\254\002\001\000\200\004\254\002\004\004\001x\000\000\000\000\000\000\003etc\000\002' \
    >"$out/layer_index/two"

hex=9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7
oci=application/vnd.oci.image
docker=application/vnd.docker
config="{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Env\":[\"A=b\"],\"User\":\"1:2\",\"Cmd\":[\"sh\"],\"Entrypoint\":null,\"WorkingDir\":\"/\",\"StopSignal\":\"SIGTERM\"},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$hex\"]}}"
blob() { printf '{"mediaType":"%s","digest":"sha256:%s","size":7}' "$1" $hex; }
manifest() {
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}\n-- next --\n%s' \
        "$1" "$(blob "$2")" "$(blob "$3")" "$config"
}
manifest $oci.manifest.v1+json $oci.config.v1+json $oci.layer.v1.tar+gzip >"$out/image_documents/oci"
manifest $docker.distribution.manifest.v2+json $docker.container.image.v1+json \
    $docker.image.rootfs.diff.tar.gzip >"$out/image_documents/docker"
manifest $docker.distribution.manifest.v2+json $docker.container.image.v1+json \
    $docker.image.rootfs.diff.tar.zstd >"$out/image_documents/docker-zstd"
printf '{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"sha256:%s","size":5,"platform":{"architecture":"amd64","os":"linux","variant":"v8"}}]}' \
    $oci.index.v1+json $oci.manifest.v1+json $hex >"$out/image_documents/index"
printf '{"schemaVersion":1,"name":"a","fsLayers":[]}' >"$out/image_documents/schema1"

number=0
for text in busybox docker.io/library/busybox:1.36 "localhost:5000/a/b@sha256:$hex" \
    "[::1]:5000/a:b@sha256:$hex" docker://quay.io/a-b/c__d.e:T_1 oci:dir:tag "oci:dir@sha256:$hex" \
    oci-archive:file.tar docker-archive:file.tar:a/b:c index.docker.io/u/r; do
    number=$((number + 1))
    printf %s "$text" >"$out/reference/$number"
done

printf 'Bearer realm="https://a.b/token",service="a \\"b\\"",scope="repository:c/d:pull,push e", Basic realm="x"\n-- next --\n{"auths":{"a.b:5":{"auth":"dTpw"},"a.b:5/c":{"username":"u","password":"p"}},"credHelpers":{"x.y":"z"},"credsStore":"s"}' \
    >"$out/registry_access/both"
printf 'basic\n-- next --\n{"auths":{"https://a.b:5/v2/":{"identitytoken":"t","auth":"dTo="}}}' \
    >"$out/registry_access/token"

# Driver actions, encoded as in vmm/src/virtio/mmio/hostile/: initialise the
# device correctly, queue one request, notify the device.
mkdir -p "$out/virtio_block" "$out/virtio_vsock" "$out/virtio_net" "$out/virtio_rng" "$out/virtio_registers"
begin='\000\007\005' # step, features, entries
for disk in 0 1 2; do
    for kind in 000 001 004 010 013 015; do
        printf "\\00$disk$begin\\010\\000\\$kind\\003\\000\\102\\001\\000\\000\\013\\000" \
            >"$out/virtio_block/$disk-$kind"
    done
done
buffer='\010\000\000\000\377\001'
for operation in 001 002 003 004 005 006; do
    printf "$begin$buffer$buffer\\010\\001\\001\\000\\000\\001\\020\\000\\$operation\\001\\000\\003\\001\\013\\001\\031\\002\\000\\013\\000" \
        >"$out/virtio_vsock/$operation"
done
# Two receive buffers, a frame from the peer, a frame to transmit.
receive='\010\000\000\000\377\001'
for kind in 000 001 020 377; do
    printf "$begin$receive$receive\\031\\000\\074\\000\\013\\000\\010\\001\\001\\000\\$kind\\100\\000\\013\\001" \
        >"$out/virtio_net/$kind"
done
printf "$begin\\010\\000\\100\\000\\000\\013\\000" >"$out/virtio_rng/one"
printf '\200\160\000\200\160\001\200\160\003\200\044\001\200\040\001\200\160\013' >"$out/virtio_registers/begin"

# A served disk's registers and queue, and an action; a state file whose one section is the rate of the
# TSC, and two of which the last has no payload.
mkdir -p "$out/virtio_restored" "$out/state_file"
printf "\\000\\002\\001\\017\\000\\000\\000\\000\\000\\001\\000\\000\\000\\002\\002\\002\\002\\002\\010\\010\\000\\020\\010\\000\\040\\010\\000\\060\\001\\003\\003\\010\\000\\001\\003\\000\\102\\001\\000\\000\\013\\000" \
    >"$out/virtio_restored/served"
section='\\027\\000\\001\\000\\000\\000\\000\\000\\004\\000\\000\\000\\000\\000\\000\\000\\200\\204\\036\\000'
printf "\\001$section" >"$out/state_file/rate"
printf "\\002$section\\031\\000\\001\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000" >"$out/state_file/two"

# Frames of a guest (vmm/egress/src/fuzzing.rs): a connection to an address that is allowed, one to
# the address of a name with the server's answer and the first bytes of TLS, a datagram, ARP; a
# solicitation and an advertisement with options, a datagram behind two extension headers, one with IPv4 options,
# one in two parts, ARP with a VLAN tag.
mkdir -p "$out/egress_frames" "$out/egress_dns"
guest='\002\000\000\000\000\001'
to='\002\000\000\000\000\002'
ip='\105\000\000\050\000\000\000\000\100\006\000\000'
own='\012\000\002\017'
allowed='\306\063\144\001'
named='\300\000\002\001'
ports='\234\100\001\273'
rest='\377\377\000\000\000\000'
syn="$ports\\000\\000\\000\\000\\000\\000\\000\\000\\120\\002$rest"
printf "\\000\\000\\066$to$guest\\010\\000$ip$own$allowed$syn" >"$out/egress_frames/allowed"
printf "\\000\\000\\066$to$guest\\010\\000$ip$own$named$syn\\001\\000\\066$guest$to\\010\\000$ip$named$own\\001\\273\\234\\100\\000\\000\\000\\000\\000\\000\\000\\001\\120\\022$rest\\000\\000\\071$to$guest\\010\\000\\105\\000\\000\\053\\000\\000\\000\\000\\100\\006\\000\\000$own$named$ports\\000\\000\\000\\001\\000\\000\\000\\001\\120\\030$rest\\026\\003\\001" \
    >"$out/egress_frames/named"
printf "\\000\\000\\056$to$guest\\010\\000\\105\\000\\000\\040\\000\\000\\000\\000\\100\\021\\000\\000$own$named\\234\\100\\000\\120\\000\\014\\000\\000data" \
    >"$out/egress_frames/udp"
printf "\\000\\000\\052$to$guest\\010\\006\\000\\001\\010\\000\\006\\004\\000\\001$guest$own\\000\\000\\000\\000\\000\\000\\012\\000\\002\\002" \
    >"$out/egress_frames/arp"
own6='\375\000\000\000\000\000\000\000\000\000\000\000\000\000\000\002'
near6='\375\000\000\000\000\000\000\000\000\000\000\000\000\000\000\003'
group6='\377\002\000\000\000\000\000\000\000\000\000\001\377\000\000\003'
printf "\\000\\000\\126\\063\\063\\377\\000\\000\\003$guest\\206\\335\\140\\000\\000\\000\\000\\040\\072\\377$own6$group6\\207\\000\\000\\000\\000\\000\\000\\000$near6\\001\\001$guest" \
    >"$out/egress_frames/solicitation"
printf "\\000\\000\\126$to$guest\\206\\335\\140\\000\\000\\000\\000\\040\\072\\377$own6$near6\\210\\000\\000\\000\\140\\000\\000\\000$own6\\002\\001$guest" \
    >"$out/egress_frames/advertisement"
printf "\\000\\000\\122$to$guest\\206\\335\\140\\000\\000\\000\\000\\034\\074\\100$own6$near6\\054\\000\\001\\004\\000\\000\\000\\000\\021\\000\\000\\001\\000\\000\\000\\007$ports\\000\\014\\000\\000data" \
    >"$out/egress_frames/extensions"
printf "\\000\\000\\062$to$guest\\010\\000\\106\\000\\000\\044\\000\\000\\000\\000\\100\\021\\000\\000$own$named\\224\\004\\000\\000$ports\\000\\014\\000\\000data" \
    >"$out/egress_frames/options"
printf "\\000\\000\\062$to$guest\\010\\000\\105\\000\\000\\044\\000\\007\\040\\000\\100\\021\\000\\000$own$named\\234\\100\\000\\120\\000\\030\\000\\000datadata\\000\\000\\052$to$guest\\010\\000\\105\\000\\000\\034\\000\\007\\000\\002\\100\\021\\000\\000$own${named}datadata" \
    >"$out/egress_frames/parts"
printf "\\000\\000\\056$to$guest\\201\\000\\000\\007\\010\\006\\000\\001\\010\\000\\006\\004\\000\\001$guest$own\\000\\000\\000\\000\\000\\000\\012\\000\\002\\002" \
    >"$out/egress_frames/tagged"
# A query, and a response with an alias, a public and a private address.
question='\004good\007example\000\000\001\000\001'
printf "\\036\\022\\064\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000$question\\000\\007\\201\\200\\000\\001\\000\\003\\000\\000\\000\\000$question\\300\\014\\000\\005\\000\\001\\000\\000\\000\\074\\000\\006\\003cdn\\300\\021\\300\\052\\000\\001\\000\\001\\000\\000\\000\\074\\000\\004\\300\\000\\002\\001\\300\\052\\000\\001\\000\\001\\000\\000\\000\\074\\000\\004\\012\\000\\000\\001" \
    >"$out/egress_dns/alias"
