//! Images that cannot be used.

use super::remedy::Remedy;

/// `edited DIR SCRIPT` makes a copy of the image in the layout `DIR`, whose manifest is changed by a
/// sed script; `blob DIR FILE` adds a blob and prints its digest; `layer_of DIR` prints the file of
/// its layer, and `with_layer DIR FILE` makes a copy with another one.
pub const FUNCTIONS: &str = r#"
manifest_of() { grep -o 'sha256:[0-9a-f]*' $1/index.json | head -n 1 | cut -d : -f 2; }
blob() { local name; name=$(sha256sum <$2 | cut -d ' ' -f 1); cp $2 $1/blobs/sha256/$name; echo $name; }
edited() {
    local old new
    rm -rf $1; cp -a $DIRECTORY $1; old=$(manifest_of $1)
    sed "$2" $1/blobs/sha256/$old >manifest; new=$(blob $1 manifest)
    sed -i "s/$old/$new/; s/\"size\":[0-9]*/\"size\":$(stat -c %s manifest)/" $1/index.json
}
layer_name() { grep -o 'sha256:[0-9a-f]*' $1/blobs/sha256/$(manifest_of $1) | tail -n 1 | cut -d : -f 2; }
layer_of() { echo $1/blobs/sha256/$(layer_name $1); }
with_layer() {
    local old size
    old=$(layer_name $DIRECTORY); size=$(stat -c %s $(layer_of $DIRECTORY))
    edited $1 "s/$old/$(sha256sum <$2 | cut -d ' ' -f 1)/; s/\"size\":$size/\"size\":$(stat -c %s $2)/"
    blob $1 $2
}
"#;

/// Layouts, archives and their documents.
pub const IMAGES: &[Remedy] = &[
    Remedy {
        given: "skopeo_copy $LAYOUT oci:two:one && skopeo_copy $LAYOUT oci:two:other",
        command: "resolve oci:two",
        says: "append a colon and one of them to the path",
        follow: "sed -n 's/.*more than one image: \\([^,]*\\),.*/\\1/p' errors >name",
        works: "resolve \"oci:two:$(cat name)\"",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve oci:two:none",
        says: "append a colon and one of them to the path",
        follow: "sed -n 's/.*available: \\([^,]*\\),.*/\\1/p' errors >name",
        works: "resolve \"oci:two:$(cat name)\"",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve oci:to",
        says: "check the path",
        works: "resolve oci:two:one",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir empty",
        command: "resolve oci:empty",
        says: "use what `skopeo copy`, `podman save`, `docker save` or `buildah push` has written",
        follow: "skopeo_copy $LAYOUT oci:empty:x",
        ..Remedy::NEW
    },
    Remedy {
        given: "skopeo_copy $LAYOUT oci-archive:good.oci && lz4 -q good.oci packed.lz4",
        command: "resolve oci-archive:packed.lz4",
        says: "decompress it first, or compress it with gzip, zstd, bzip2 or xz instead of {}",
        follow: "test $1 = lz4; lz4 -dq packed.lz4 packed; gzip <packed >packed.gz; zstd -q packed -o packed.zst; \
                 xz <packed >packed.xz; busybox bzip2 <packed >packed.bz2",
        works: "for end in '' .gz .zst .xz .bz2; do resolve oci-archive:packed$end; done",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE; skopeo_copy $LAYOUT oci-archive:saved.oci && truncate -s 20000 saved.oci",
        command: "build oci-archive:saved.oci",
        says: "the archive is damaged; save it again",
        follow: "rm saved.oci && skopeo_copy $LAYOUT oci-archive:saved.oci",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE; skopeo_copy $LAYOUT oci:pushed:x && printf X | dd of=$(layer_of pushed) bs=1 seek=500 conv=notrunc status=none",
        command: "build oci:pushed:x",
        says: "the image is damaged at its source: push or save it again",
        follow: "rm -r pushed && skopeo_copy $LAYOUT oci:pushed:x",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE; skopeo_copy $LAYOUT oci:pushed2:x && printf X | dd of=pushed2/blobs/sha256/$(manifest_of pushed2) bs=1 conv=notrunc status=none",
        command: "build oci:pushed2:x",
        says: "the archive is damaged; save it again",
        follow: "rm -r pushed2 && skopeo_copy $LAYOUT oci:pushed2:x",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE; skopeo_copy $LAYOUT oci:short:x && truncate -s 5000 $(layer_of short)",
        command: "build oci:short:x",
        says: "the image is damaged at its source: push or save it again",
        follow: "rm -r short && skopeo_copy $LAYOUT oci:short:x",
        ..Remedy::NEW
    },
    Remedy {
        given: "cp -a $DIRECTORY arm && umoci config --image arm:latest --architecture arm64",
        command: "build oci:arm:latest",
        says: "use an image that is also built for {}/{}",
        follow: "umoci config --image arm:other --os $1 --architecture $2 || \
                 { cp -a $DIRECTORY both && umoci config --image both:latest --os $1 --architecture $2; }",
        works: "build oci:both:latest",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE; edited encrypted 's/layer.v1.tar[a-z+]*/layer.v1.tar+encrypted/g'",
        command: "build oci:encrypted:latest",
        says: "use an image for Linux whose layers are in the registry and not encrypted",
        works: "build $IMAGE",
        ..Remedy::NEW
    },
    Remedy {
        given: "edited chart 's/vnd.oci.image.config.v1+json/vnd.cncf.helm.config.v1+json/'",
        command: "build oci:chart:latest",
        says: "use a container image",
        works: "build $LAYOUT",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE; gzip -dc <$(layer_of $DIRECTORY) >plain && lz4 -q plain layer.lz4 && with_layer lz4 layer.lz4",
        command: "build oci:lz4:latest",
        says: "build the image with gzip, zstd or uncompressed layers",
        follow: "gzip <plain >layer.gz; zstd -q plain -o layer.zst; with_layer gzip layer.gz; \
                 with_layer zstd layer.zst; with_layer plain-layer plain",
        works: "build oci:gzip:latest && build oci:zstd:latest && build oci:plain-layer:latest",
        ..Remedy::NEW
    },
    // A stream has the largest window, whatever its size.
    Remedy {
        given: "rm -rf $STATE; zstd -q --long=28 <plain >window.zst && with_layer window window.zst",
        command: "build oci:window:latest",
        says: "build the image with layers of a smaller window: at most 128 MiB (`zstd --long=27`)",
        follow: "zstd=$(echo \"$SAID\" | cut -d '`' -f 2); $zstd -q <plain >window.zst; with_layer window window.zst",
        ..Remedy::NEW
    },
    // A volume label.
    Remedy {
        given: "mkdir -p tree && echo x >tree/file && tar --format=gnu --label volume -cf volume.tar -C tree file && \
                cp -a $DIRECTORY volume && umoci raw add-layer --image volume:latest volume.tar",
        command: "build oci:volume:latest",
        says: "build the image without it, or with a tar of another format (`tar --format=pax`)",
        follow: "tar=$(echo \"$SAID\" | cut -d '`' -f 2); $tar -cf pax.tar -C tree file; \
                 cp -a $DIRECTORY pax && umoci raw add-layer --image pax:latest pax.tar",
        works: "build oci:pax:latest",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p tree && echo x >tree/file && tar -cf up.tar -P --transform 's|^|../../|' -C tree file && \
                cp -a $DIRECTORY hostile && umoci raw add-layer --image hostile:latest up.tar",
        command: "build oci:hostile:latest",
        says: "the image is malformed or hostile: do not use it, or rebuild it",
        follow: "cp -a $DIRECTORY rebuilt && tar -cf good.tar -C tree file && umoci raw add-layer --image rebuilt:latest good.tar",
        works: "build oci:rebuilt:latest",
        ..Remedy::NEW
    },
    Remedy {
        command: "build $LAYOUT --size-mib 1",
        says: "use --size-mib {} or more, or leave it out",
        works: "build $LAYOUT --size-mib $1 && build $LAYOUT",
        ..Remedy::NEW
    },
    Remedy {
        command: "build $LAYOUT --mke2fs /no/such/mke2fs",
        says: "install e2fsprogs (mke2fs and debugfs in one directory), or leave --mke2fs out",
        // It is installed.
        works: "build $LAYOUT --mke2fs $(PATH=$PATH:/usr/sbin:/sbin command -v mke2fs) && build $LAYOUT",
        ..Remedy::NEW
    },
    Remedy {
        given: "cp -a $DIRECTORY odd && (cd tree && echo x >'new\nline' && tar -cf ../odd.tar 'new\nline') && \
                umoci raw add-layer --image odd:latest odd.tar",
        command: "build oci:odd:latest --mke2fs $(PATH=$PATH:/usr/sbin:/sbin command -v mke2fs)",
        says: "leave --mke2fs out to use the built-in writer",
        works: "build oci:odd:latest",
        ..Remedy::NEW
    },
    Remedy {
        given: "cp -a $DIRECTORY labelled && big=$(head -c 5000 /dev/zero | tr '\\0' x) && \
                tar --format=pax --pax-option=SCHILY.xattr.user.big:=$big -cf big.tar -C tree file && \
                umoci raw add-layer --image labelled:latest big.tar",
        command: "build oci:labelled:latest",
        says: "rebuild the image without the attributes: ext4 has 4 KiB for those of a file",
        follow: "cp -a $DIRECTORY unlabelled && tar -cf small.tar -C tree file && \
                 umoci raw add-layer --image unlabelled:latest small.tar",
        works: "build oci:unlabelled:latest",
        ..Remedy::NEW
    },
    Remedy {
        given: "tar --format=pax --pax-option=SCHILY.xattr.security.capability:=x -cf capability.tar -C tree file && \
                cp -a $DIRECTORY capability && umoci raw add-layer --image capability:latest capability.tar",
        command: "build oci:capability:latest",
        says: "rebuild the image without the attribute",
        follow: "cp -a $DIRECTORY incapable && tar -cf incapable.tar -C tree file && \
                 umoci raw add-layer --image incapable:latest incapable.tar",
        works: "build oci:incapable:latest",
        ..Remedy::NEW
    },
    // So many names that are not UTF-8 in one directory that the built-in writer refuses them.
    Remedy {
        given: "mkdir many && (cd many && seq -f %06g 4000 | LC_ALL=C sed 's/$/\\xff/' | LC_ALL=C xargs touch) && \
                cp -a $DIRECTORY raw && tar -cf many.tar many && umoci raw add-layer --image raw:latest many.tar",
        command: "build oci:raw:latest",
        says: "use --mke2fs with the path of your system's mke2fs, such as /usr/sbin/mke2fs",
        works: "build oci:raw:latest --mke2fs $(PATH=$PATH:/usr/sbin:/sbin command -v mke2fs)",
        ..Remedy::NEW
    },
];
