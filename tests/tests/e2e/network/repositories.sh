# What the clients of the tests fetch, in the directory www: made here, so that nothing is downloaded.
#
#   file             200 MB of random bytes
#   repository.git   a git repository of three commits, for git daemon
#   simple/          an index of Python packages with one wheel
#   apt/             a Debian repository with one package

mkdir -p www/simple/greeting www/apt package/DEBIAN package/usr/bin
head -c 200000000 /dev/urandom >www/file
echo answer >www/short

git init --quiet --initial-branch main work
for number in 1 2 3; do
    head -c 1000000 /dev/urandom >work/file-$number
    git -C work add .
    git -C work -c user.name=test -c user.email=test@names.test commit --quiet --message "file $number"
done
git clone --quiet --bare work www/repository.git

python3 - <<'PYTHON'
import zipfile
files = {
    "greeting.py": "def main():\n    print('greetings from a wheel')\n",
    "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
    "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreeting = greeting:main\n",
}
record = "greeting-1.0.dist-info/RECORD"
files[record] = "".join(f"{name},,\n" for name in [*files, record])
with zipfile.ZipFile("www/simple/greeting/greeting-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
PYTHON
echo '<a href="greeting-1.0-py3-none-any.whl">greeting</a>' >www/simple/greeting/index.html

printf '#!/bin/sh\necho greetings from a package\n' >package/usr/bin/greet
chmod 755 package/usr/bin/greet
printf '%s\n' 'Package: greet' 'Version: 1.0' 'Architecture: all' 'Maintainer: test <test@names.test>' \
    'Description: a greeting' >package/DEBIAN/control
dpkg-deb --build --root-owner-group package www/apt/greet_1.0_all.deb >/dev/null
(cd www/apt && dpkg-scanpackages . /dev/null >Packages 2>/dev/null)
