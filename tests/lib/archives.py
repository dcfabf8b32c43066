#!/usr/bin/python3
"""Archives to test with, harmless and hostile: archives.py FOLDER writes a sample of each.

The fuzzer of unpack begins with them, and its system test knows what becomes of each."""

import gzip
import io
import pathlib
import struct
import sys
import tarfile
import zipfile
import zlib


def member(name, content=b"", kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(content), 0o644
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def folder(name, mode=0o755):
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


def symlink(name, target):
    return member(name, kind=tarfile.SYMTYPE, linkname=target)


def hardlink(name, target):
    return member(name, kind=tarfile.LNKTYPE, linkname=target)


def device(name, kind=tarfile.CHRTYPE):
    return member(name, kind=kind, devmajor=1, devminor=3)


def tar(*members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    """@param members  (name, content, mode)"""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr, info.compress_type = 3, mode << 16, method
            archive.writestr(info, content)
    return out.getvalue()


def overlapping(content, count):
    """One compressed content that `count` entries of a zip file's directory point at."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = squeeze.compress(content) + squeeze.flush()
    sums = struct.pack("<III", zlib.crc32(content), len(packed), len(content))
    out = struct.pack("<IHHHHH", 0x04034b50, 20, 0, 8, 0, 0x21) + sums
    out += struct.pack("<HH", 4, 0) + b"0000" + packed
    start = len(out)
    for i in range(count):
        out += struct.pack("<IHHHHHH", 0x02014b50, 0x314, 20, 0, 8, 0, 0x21) + sums
        out += struct.pack("<HHHHHII", 4, 0, 0, 0, 0, 0o100644 << 16, 0) + b"%04d" % i
    return out + struct.pack("<IHHHHIIH", 0x06054b50, 0, 0, count, count, len(out) - start,
                             start, 0)


def with_size(data, size):
    """A tar file whose first head says another size, in its twelve bytes."""
    head = bytearray(data[:512])
    head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


def sparse():
    """A file of 1 GiB with five bytes at its end, as GNU tar writes it (sparse format 1.0)."""
    size = 1 << 30
    table = b"1\n%d\n5\n" % (size - 5)
    info, content = member("GNUSparseFile.0/holes", table.ljust(512, b"\0") + b"12345")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                        "GNU.sparse.name": "holes", "GNU.sparse.realsize": str(size)}
    return tar((info, content))


def encrypted():
    data = bytearray(zipped(("x", b"secret" * 10, 0o100644)))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags] |= 1
    return bytes(data)


def greedy():
    """A zip file whose lzma asks for a dictionary of 1.5 GiB."""
    data = bytearray(zipped(("x", b"hello" * 1000, 0o100644), method=zipfile.ZIP_LZMA))
    at = data.index(b"\x05\x00\x5d")
    data[at + 3:at + 7] = struct.pack("<I", 1536 << 20)
    return bytes(data)


def samples():
    """@return {name: (the code that it is refused with, or None; bytes)}"""
    x = member("d/x", b"content")
    tree = tar(folder("d"), x, symlink("d/l", "x"), hardlink("h", "d/x"),
               member("caf\u00e9", b"1"), member("long/" * 40 + "n", b"2"))
    zipped_tree = zipped(("d/", b"", 0o40755), ("d/x", b"content" * 100, 0o100755),
                         ("d/l", b"x", 0o120777))
    return {
        "tree.tar": (None, tree),
        "tree.gnu.tar": (None, tar(x, member("y" * 200, b"2"), form=tarfile.GNU_FORMAT)),
        "tree.ustar.tar": (None, tar(folder("d"), x, form=tarfile.USTAR_FORMAT)),
        "tree.tar.gz": (None, gzip.compress(tree, mtime=0)),
        "tree.zip": (None, zipped_tree),
        "stored.zip": (None, zipped(("x", b"1", 0o100644), method=zipfile.ZIP_STORED)),
        "bzip2.zip": (None, zipped(("x", b"1" * 99, 0o100644), method=zipfile.ZIP_BZIP2)),
        "lzma.zip": (None, zipped(("x", b"1" * 99, 0o100644), method=zipfile.ZIP_LZMA)),
        "empty.tar": (None, tar()),
        "empty.zip": (None, zipped()),
        "sparse.tar": (None, sparse()),
        "fifo.tar": (None, tar(member("p", kind=tarfile.FIFOTYPE))),
        "overlapping.zip": (None, overlapping(bytes(10_000), 20)),
        "slip.tar": ("invalid", tar(member("../outside/x", b"1"))),
        "slip.zip": ("invalid", zipped(("../outside/x", b"1", 0o100644))),
        "slip-deep.zip": ("invalid", zipped(("a/b/../../../outside/x", b"1", 0o100644))),
        "absolute.tar": ("invalid", tar(member("/etc/sbx-x", b"1"))),
        "absolute.zip": ("invalid", zipped(("/etc/sbx-x", b"1", 0o100644))),
        "link-out.tar": ("invalid", tar(symlink("l", "../outside"))),
        "link-out.zip": ("invalid", zipped(("l", b"../outside", 0o120777))),
        "link-later.tar": ("invalid", tar(symlink("l", "a/../.."), member("l/x", b"1"))),
        "through-link.tar": ("invalid", tar(symlink("l", "."), member("l/x", b"1"))),
        "through-link.zip": ("invalid", zipped(("l", b".", 0o120777), ("l/x", b"1", 0o100644))),
        "link-over.tar": ("invalid", tar(x, symlink("d/x", "y"))),
        "hard-passwd.tar": ("invalid", tar(hardlink("h", "/etc/passwd"))),
        "hard-out.tar": ("invalid", tar(hardlink("h", "../outside/keep"))),
        "hard-through.tar": ("invalid", tar(x, symlink("s", "d"), hardlink("h", "s/x"))),
        "device.tar": ("unsupported", tar(device("null"))),
        "block.tar": ("unsupported", tar(device("disk", tarfile.BLKTYPE))),
        "set-id.tar": ("unsupported", tar(member("x", b"1", mode=0o4755))),
        "encrypted.zip": ("unsupported", encrypted()),
        "twice.tar": ("invalid", tar(x, x)),
        "bomb.tar.gz": ("too_large", gzip.compress(tar(member("zeros", bytes(70 << 20))),
                                                   mtime=0)),
        "bomb.zip": ("too_large", zipped(("zeros", bytes(70 << 20), 0o100644))),
        "greedy.zip": ("invalid", greedy()),
        "huge.tar": ("too_large", with_size(tar(x), b"77777777777\0")),
        "cut.tar": ("invalid", tar(member("x", bytes(range(256)) * 9))[:1500]),
        "cut.tar.gz": ("invalid", gzip.compress(tree, mtime=0)[:-40]),
        "cut.zip": ("invalid", zipped_tree[:-30]),
        "noise": ("unsupported", b"hello, this is no archive\n" * 40),
    }


def main():
    place = pathlib.Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    for name, (_, data) in samples().items():
        (place / name).write_bytes(data)


if __name__ == "__main__":
    main()
