//! Kernels. `$DEB` is the distribution's package, `$VMLINUZ` the image in it; `$FILES` serves the
//! working directory over HTTP.

use super::remedy::Remedy;

/// `kernel install`, and `kernel build` up to the compiler.
pub const KERNELS: &[Remedy] = &[
    Remedy {
        command: "microagent kernel install --from /etc/passwd",
        says: "use a bzImage or an ELF vmlinux for x86-64, or a .deb that contains one",
        works: "microagent kernel install --from $DEB",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent kernel install --from $VMLINUZ",
        says: "install the kernel's package (.deb), which has them as modules, or a kernel for microVMs: \
               microagent kernel build",
        works: "microagent kernel install --from $DEB",
        ..Remedy::NEW
    },
    Remedy {
        given: "ln -s $DEB kernel.deb",
        command: "PATH=$(dirname $(command -v microagent)) microagent kernel install",
        says: "install one with microagent kernel install --from PATH, or --url URL --sha256 SUM",
        follow: "sum=$(sha256sum <kernel.deb | cut -d ' ' -f 1)",
        works: "microagent kernel install --from kernel.deb && \
                microagent kernel install --url http://$FILES/kernel.deb --sha256 $sum",
        ..Remedy::NEW
    },
    Remedy {
        given: "no_network",
        command: "APT_CONFIG=apt.conf microagent kernel install",
        says: "check the network and /etc/apt, or {}",
        works: "microagent kernel install --from $DEB",
        ..Remedy::NEW
    },
    Remedy {
        given: "lists_only",
        command: "APT_CONFIG=apt.conf microagent kernel install",
        says: "check the network and /etc/apt, or {}",
        works: "microagent kernel install --from $DEB",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent kernel install --url http://$FILES/kernel.deb --sha256 abc",
        code: 2,
        says: "use the 64 hexadecimal digits that sha256sum prints",
        follow: "sum=$(sha256sum <kernel.deb | cut -d ' ' -f 1)",
        works: "microagent kernel install --url http://$FILES/kernel.deb --sha256 $sum",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent kernel install --url http://$FILES/kernel.deb --sha256 $(sha256sum </dev/null | cut -d ' ' -f 1)",
        says: "check the digest; the file may have been replaced or damaged",
        follow: "sum=$(sed -n 's/.*got sha256:\\([0-9a-f]*\\).*/\\1/p' errors); echo \"$sum  kernel.deb\" | sha256sum -c",
        works: "microagent kernel install --url http://$FILES/kernel.deb --sha256 $sum",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE",
        command: "microagent doctor",
        code: 0,
        says: "microagent kernel install",
        // From the file, because the distribution's would be downloaded.
        follow: "$SAID --from $DEB",
        works: "! microagent doctor | grep 'microagent kernel install'",
    },
    Remedy {
        given: "dpkg-deb -R $DEB tree && find tree -name 'virtio_blk.ko*' -delete && dpkg-deb -Znone -b tree lacking.deb",
        command: "microagent kernel install --from lacking.deb",
        says: "use a kernel for cloud or virtual machines, such as linux-image-cloud-amd64",
        works: "microagent kernel install --from $DEB",
        ..Remedy::NEW
    },
];

/// `apt.conf` for a host without a network, and `packages NAME` for one with a package source in
/// which there is nothing but the lists.
pub const FUNCTIONS: &str = r#"
no_network() {
    mkdir -p lists
    echo 'deb http://127.0.0.1:1/debian bookworm main' >sources
    printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "-";\nDir::State::lists "%s";\n' \
        $PWD/sources $PWD/lists >apt.conf
}
lists_only() {
    no_network
    mkdir -p repository
    echo "deb [trusted=yes] file:$PWD/repository ./" >sources
    for part in "linux-image-cloud-amd64;Depends: linux-image-1-cloud-amd64" "linux-image-1-cloud-amd64;Section: kernel"; do
        printf 'Package: %s\nVersion: 1\nArchitecture: amd64\n%s\nFilename: ./gone.deb\nSize: 9\nSHA256: %s\n\n' \
            "${part%;*}" "${part#*;}" $(echo | sha256sum | cut -d ' ' -f 1)
    done >repository/Packages
    chmod -R go+rX . ..
}
"#;

/// `kernel build`; `$SOURCE` is the distribution's source package, of which a kernel is in the store.
pub const BUILDS: &[Remedy] = &[
    Remedy {
        given: "echo 'make it fast' >bad.config",
        command: "microagent kernel build --source $SOURCE --config bad.config",
        says: "write CONFIG_NAME=value or # CONFIG_NAME is not set",
        follow: "printf 'CONFIG_PVH=y\\n# CONFIG_NUMA is not set\\n' >bad.config",
        ..Remedy::NEW
    },
    Remedy {
        given: "echo x >source.tar",
        command: "microagent kernel build --source source.tar",
        says: "use Debian's package linux-source-6.1 (.deb), or a linux-6.1.N.tar.xz from kernel.org",
        works: "microagent kernel build --source $SOURCE",
        ..Remedy::NEW
    },
    Remedy {
        given: "no_network",
        command: "APT_CONFIG=apt.conf microagent kernel build",
        says: "use --source with Debian's package linux-source-6.1 (.deb), or a linux-6.1.N.tar.xz from kernel.org",
        works: "microagent kernel build --source $SOURCE",
        ..Remedy::NEW
    },
    // A source whose configuration fails.
    Remedy {
        given: "mkdir -p linux/arch/x86 && printf 'VERSION = 6\\n%%:\\n\\t@echo the cause >&2; false\\n' >linux/Makefile && \
                mkdir -p linux/scripts/kconfig && touch linux/scripts/kconfig/x linux/Kconfig linux/arch/x86/Kconfig linux/arch/x86/Makefile && tar -cf broken.tar linux",
        command: "microagent kernel build --source broken.tar",
        says: "see {}",
        works: "grep 'the cause' \"$1\"",
        ..Remedy::NEW
    },
];
