#include "textflag.h"
#include "go_asm.h"

GLOBL ·evalFilterAddr(SB), NOPTR|RODATA, $8
DATA ·evalFilterAddr(SB)/8, $skeinEvalFilter(SB)

// See filter. R0 is the node, R1 ask, R2 the filter, as C passes them; R3 to R7
// and R16 are the caller's to lose. Runs on C's stack and touches neither it nor
// Go's registers.
TEXT skeinEvalFilter(SB), NOSPLIT|NOFRAME, $0
	TST   $0xff, R1
	BEQ   call
	MOVBU filter_stopped(R2), R3
	CBNZ  R3, call
	MOVD  tensor_name(R0), R3
	MOVD  filter_nWords(R2), R4
	ADD   $filter_words, R2, R5

names:
	CBZ R4, products
	LDP (R5), (R6, R7)
	EOR R3, R6, R6
	AND R7, R6, R6
	CBZ R6, call
	ADD $16, R5, R5
	SUB $1, R4, R4
	B   names

products:
	MOVBU filter_byWeight(R2), R3
	CBZ   R3, no
	MOVWU tensor_op(R0), R3
	CMPW  $const_opMulMat, R3
	BNE   no
	MOVD  tensor_src(R0), R3
	LSR   $const_filterShift, R3, R4
	AND   $(const_filterKnown-1), R4, R4
	ADD   $filter_known, R2, R5
	MOVD  (R5)(R4<<3), R6
	CMP   R3, R6
	BEQ   no
	ADD   $1, R3, R3
	CMP   R3, R6
	BEQ   yes

call:
	MOVD filter_call(R2), R16
	JMP  (R16)

no:
	MOVD $0, R0
	RET

yes:
	MOVD $1, R0
	RET
