package sim

// nobody is the end of a list.
const nobody = -1

// links are the neighbours of each object in the list that it is in, one at most.
type links struct{ older, newer []int32 }

func newLinks(objects int) *links {
	return &links{make([]int32, objects), make([]int32, objects)}
}

// list is objects in an order, with the bytes they take.
type list struct {
	*links
	oldest, newest int32
	bytes          int64
}

func newList(l *links) list { return list{l, nobody, nobody, 0} }

// push puts an object at the newest end.
func (l *list) push(o int32, bytes int64) {
	l.older[o], l.newer[o] = l.newest, nobody
	if l.newest == nobody {
		l.oldest = o
	} else {
		l.newer[l.newest] = o
	}
	l.newest = o
	l.bytes += bytes
}

func (l *list) remove(o int32, bytes int64) {
	if l.older[o] == nobody {
		l.oldest = l.newer[o]
	} else {
		l.newer[l.older[o]] = l.newer[o]
	}
	if l.newer[o] == nobody {
		l.newest = l.older[o]
	} else {
		l.older[l.newer[o]] = l.older[o]
	}
	l.bytes -= bytes
}
