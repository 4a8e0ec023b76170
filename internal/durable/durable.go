package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

// WriteFile puts data under name so that after any crash the name holds the
// old content or the new, whole, and after a return without error the new. It
// writes to name + ".tmp" first; two writers of one name exclude each other
// outside.
//
//	open(tmp, O_WRONLY|O_CREAT|O_TRUNC) write fsync close
//	rename(tmp, name)
//	open(folder) fsync close
func WriteFile(fsys FS, name string, data []byte) error {
	tmp := name + ".tmp"
	if err := writeSynced(fsys, tmp, data); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), ignoreAbsent(fsys.Remove(tmp)))
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), ignoreAbsent(fsys.Remove(tmp)))
	}
	if err := fsys.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func writeSynced(fsys FS, name string, data []byte) error {
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// maxRead bounds ReadFile: what is read whole is a line or two of our own.
const maxRead = 4096

// ReadFile reads a small file whole; one of more than 4 KiB is an error.
func ReadFile(fsys FS, name string) ([]byte, error) { return ReadUpTo(fsys, name, maxRead) }

// ReadUpTo reads a file whole; one of more than most bytes is an error.
//
//	open(name, O_RDONLY) read close
func ReadUpTo(fsys FS, name string, most int64) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("read %s: longer than the %d bytes it can hold", name, most)
	}
	return data, errors.Join(err, f.Close())
}

// SyncFile makes the content of a file durable; its name is made so by SyncDir.
// After an error the content is unknown, whatever a second call would say: drop
// the file.
//
//	open(name, O_WRONLY) fstat sync_file_range(SYNC_FILE_RANGE_WRITE)... fsync close
func SyncFile(fsys FS, name string) error {
	f, err := Begin(fsys, name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Begin is the first half of SyncFile; Sync and Close of what it returns are the
// other. It has the kernel begin to write the content out, and does not wait
// for that: where many files are begun before the first of them is synced, one
// journal commit takes them all, instead of one each. Writes through other
// descriptors are covered: fsync is of the file, and Linux reports a failed
// write-back to who opens it afterwards if nobody has seen it yet. An error of
// Begin is as grave as one of Sync.
//
//	open(name, O_WRONLY) fstat
//	sync_file_range(SYNC_FILE_RANGE_WRITE) for each Step
func Begin(fsys FS, name string) (File, error) {
	f, err := fsys.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := writeOut(f); err != nil {
		return nil, errors.Join(fmt.Errorf("write out %s: %w", name, err), f.Close())
	}
	return f, nil
}

// Step is how much of a file Begin has written out at a time. ext4 counts the
// blocks of a file twice while it allocates what it had delayed, up to 8 MiB of
// it at a time; so it is this much.
const Step = 1 << 20

// writeOut starts the writing of what is dirty. Where that is not to be had, on
// some file systems and under some filters, Sync does it all.
func writeOut(f File) error {
	sc, ok := f.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = stepwise(int(fd)) }); cerr != nil {
		return cerr
	}
	for _, refused := range []error{syscall.ENOSYS, syscall.EPERM, syscall.EINVAL, syscall.ESPIPE, syscall.EOPNOTSUPP} {
		if errors.Is(err, refused) {
			return nil
		}
	}
	return err
}

func stepwise(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	for at := int64(0); at < st.Size; {
		err := unix.SyncFileRange(fd, at, Step, unix.SYNC_FILE_RANGE_WRITE)
		switch {
		case err == nil:
			at += Step
		case !errors.Is(err, syscall.EINTR):
			return err
		}
	}
	return nil
}

// MkdirAll makes a folder and those above it, without making them durable; made
// names those that were missing, topmost first. One that could not be made is
// among them too: of an operation that failed nobody knows whether it was done.
//
//	mkdir for each missing one, found from below
func MkdirAll(fsys FS, name string) (made []string, err error) {
	err = fsys.Mkdir(name)
	if errors.Is(err, fs.ErrNotExist) && path.Dir(name) != "." {
		if made, err = MkdirAll(fsys, path.Dir(name)); err != nil {
			return made, err
		}
		err = fsys.Mkdir(name)
	}
	if errors.Is(err, fs.ErrExist) { // also when another goroutine was faster
		return made, nil
	}
	return append(made, name), err
}

// MkdirDurable is MkdirAll, and what was made is there after a crash.
//
//	mkdir for each missing one, found from below
//	open(parent) fsync close for each that was made
func MkdirDurable(fsys FS, name string) error {
	made, err := MkdirAll(fsys, name)
	for _, dir := range made {
		err = errors.Join(err, fsys.SyncDir(path.Dir(dir)))
	}
	if err != nil {
		return fmt.Errorf("make folder %s: %w", name, err)
	}
	return nil
}

// RemoveDurable unlinks a file and makes its absence durable. A file that is
// not there is fine; whoever unlinked it may not have come to sync that.
//
//	unlink(name)
//	open(folder) fsync close
func RemoveDurable(fsys FS, name string) error {
	err := ignoreAbsent(fsys.Remove(name))
	if err == nil {
		err = fsys.SyncDir(path.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
