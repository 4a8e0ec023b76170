package index

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash/crc32"
	"math"
	"time"

	"cistern/internal/oci"
)

// Values are: one byte of version, fixed fields in big endian, then the CRC32C
// of key and value. Decoders accept exactly what encoders make, and never
// panic on anything else.

const (
	valueVersion = 1
	crcLen       = 4
	flagPublic   = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends the checksum to a value.
func seal(key, body []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
	return binary.BigEndian.AppendUint32(body, sum)
}

// unseal checks and cuts the checksum off.
func unseal(key, value []byte) (body []byte, ok bool) {
	if len(value) < crcLen {
		return nil, false
	}
	body = value[:len(value)-crcLen]
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
	return body, binary.BigEndian.Uint32(value[len(body):]) == sum
}

const (
	algSHA256 = 1
	algSHA512 = 2
)

// digestKey is one byte of algorithm and the raw hash.
func digestKey(d oci.Digest) []byte {
	alg := byte(algSHA256)
	if d.Algorithm() == "sha512" {
		alg = algSHA512
	}
	text := d.Hex()
	key := make([]byte, 1, 1+len(text)/2+4) // room for a repository behind it
	key[0] = alg
	for i := 0; i+1 < len(text); i += 2 { // a Digest is valid hex
		key = append(key, nibble(text[i])<<4|nibble(text[i+1]))
	}
	return key
}

// nibble is the value of a lower-case hexadecimal digit.
func nibble(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// cutDigest reads a digestKey from the start of b and gives the rest.
func cutDigest(b []byte) (d oci.Digest, rest []byte, ok bool) {
	n := 0
	switch {
	case len(b) > 0 && b[0] == algSHA256:
		n = sha256.Size
	case len(b) > 0 && b[0] == algSHA512:
		n = sha512.Size
	}
	if n == 0 || len(b) < 1+n {
		return oci.Digest{}, nil, false
	}
	d, ok = oci.FromSum(b[1 : 1+n])
	return d, b[1+n:], ok
}

// nanos is a time on disk: nanoseconds since 1970, 0 for none or before.
func nanos(t time.Time) uint64 {
	switch s := t.Unix(); {
	case s < 0:
		return 0
	case s >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return uint64(t.UnixNano())
}

func timeOf(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(min(n, math.MaxInt64)))
}

// stored is a record as it lies on disk, its names still numbers.
type stored struct {
	class             Class
	public            bool
	size, allocated   int64
	first, last       uint64
	mediaType, origin uint32
}

const recordLen = 3 + 4*8 + 2*4

func (s stored) encode(key []byte) []byte {
	b := make([]byte, 0, recordLen+crcLen)
	b = append(b, valueVersion, flags(s.public), byte(s.class))
	for _, n := range []uint64{uint64(s.size), uint64(s.allocated), s.first, s.last} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, s.mediaType)
	b = binary.BigEndian.AppendUint32(b, s.origin)
	return seal(key, b)
}

func decodeRecord(key, value []byte) (s stored, ok bool) {
	b, ok := unseal(key, value)
	if !ok || len(b) != recordLen || b[0] != valueVersion || b[1]&^flagPublic != 0 || b[2] >= Classes {
		return stored{}, false
	}
	s = stored{
		public: b[1]&flagPublic != 0, class: Class(b[2]),
		size: int64(be64(b[3:])), allocated: int64(be64(b[11:])),
		first: be64(b[19:]), last: be64(b[27:]),
		mediaType: be32(b[35:]), origin: be32(b[39:]),
	}
	return s, s.size >= 0 && s.allocated >= 0
}

// full adds the names.
func (s stored) full(d oci.Digest, mediaType, origin string) Record {
	return Record{
		Digest: d, Size: s.size, Allocated: s.allocated, MediaType: mediaType, Class: s.class,
		FirstSeen: timeOf(s.first), LastUsed: timeOf(s.last), Public: s.public, Origin: origin,
	}
}

// lane is where in the order of use a record stands: in that of its class, but for
// large blobs that were used again.
func (s stored) lane() lane {
	if s.class == ClassLarge && again(s.first, s.last) {
		return laneAgain
	}
	return lane(s.class)
}

// mayStandIn tells whether a recency key in lane l is the record's. Before there was
// laneAgain all large blobs stood in one: those do until they are used.
func (s stored) mayStandIn(l lane) bool { return l == lane(s.class) || l == s.lane() }

// Once tells whether a blob counts OnceAges times as old as it is: it is large, and was not
// used again since it came.
func (r Record) Once() bool {
	return r.Class == ClassLarge && !again(nanos(r.FirstSeen), nanos(r.LastUsed))
}

// again tells whether a use counts as one after the first.
func again(first, used uint64) bool { return used > first && used-first >= uint64(AgainAfter) }

// recencyKey sorts by lane, then time, then digest: the order is total.
func recencyKey(l lane, last uint64, digest []byte) []byte {
	key := make([]byte, 0, 9+len(digest))
	key = append(key, byte(l))
	key = binary.BigEndian.AppendUint64(key, last)
	return append(key, digest...)
}

// cutRecency is the inverse; the digest is left as a key of blobs.
func cutRecency(key []byte) (l lane, last uint64, digest []byte, ok bool) {
	if len(key) < 10 || key[0] >= lanes {
		return 0, 0, nil, false
	}
	return lane(key[0]), be64(key[1:]), key[9:], true
}

// storedTag is a tag as it lies on disk.
type storedTag struct {
	public           bool
	size             int64
	checked, changed uint64
	mediaType        uint32
	target           oci.Digest
}

const tagLen = 2 + 3*8 + 4 // and the target's digestKey

func (t storedTag) encode(key []byte) []byte {
	b := make([]byte, 0, tagLen+65+crcLen)
	b = append(b, valueVersion, flags(t.public))
	for _, n := range []uint64{uint64(t.size), t.checked, t.changed} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, t.mediaType)
	return seal(key, append(b, digestKey(t.target)...))
}

func decodeTag(key, value []byte) (t storedTag, ok bool) {
	b, ok := unseal(key, value)
	if !ok || len(b) < tagLen || b[0] != valueVersion || b[1]&^flagPublic != 0 {
		return storedTag{}, false
	}
	d, rest, ok := cutDigest(b[tagLen:])
	t = storedTag{
		public: b[1]&flagPublic != 0, size: int64(be64(b[2:])),
		checked: be64(b[10:]), changed: be64(b[18:]), mediaType: be32(b[26:]), target: d,
	}
	return t, ok && len(rest) == 0 && t.size >= -1
}

func encodeGrant(key []byte, at uint64) []byte {
	return seal(key, binary.BigEndian.AppendUint64([]byte{valueVersion}, at))
}

func decodeGrant(key, value []byte) (at uint64, ok bool) {
	b, ok := unseal(key, value)
	if !ok || len(b) != 9 || b[0] != valueVersion {
		return 0, false
	}
	return be64(b[1:]), true
}

func encodeTotals(key []byte, t Totals) []byte {
	b := []byte{valueVersion}
	for c := range Classes {
		b = binary.BigEndian.AppendUint64(b, uint64(t.Blobs[c]))
		b = binary.BigEndian.AppendUint64(b, uint64(t.Allocated[c]))
	}
	return seal(key, b)
}

func decodeTotals(key, value []byte) (t Totals, ok bool) {
	b, ok := unseal(key, value)
	if !ok || len(b) != 1+Classes*16 || b[0] != valueVersion {
		return Totals{}, false
	}
	for c := range Classes {
		t.Blobs[c] = int64(be64(b[1+16*c:]))
		t.Allocated[c] = int64(be64(b[9+16*c:]))
	}
	return t, true
}

func flags(public bool) byte {
	if public {
		return flagPublic
	}
	return 0
}

func be64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
