package load

import (
	"errors"
	"syscall"
	"unsafe"
)

// recvTruncate drops up to n received bytes in the kernel (tcp(7): MSG_TRUNC) and
// returns how many. The buffer is never written to, so its size is a lie that
// the kernel is content with; package syscall would only pass a true one.
func recvTruncate(fd, n int) (int, error) {
	var never byte
	for {
		got, _, e := syscall.Syscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&never)), uintptr(n), syscall.MSG_TRUNC, 0, 0)
		if errors.Is(e, syscall.EINTR) {
			continue
		}
		if e != 0 {
			return 0, e
		}
		return int(got), nil
	}
}
