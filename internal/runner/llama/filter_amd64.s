#include "textflag.h"
#include "go_asm.h"

// The arguments as C passes them; AX and R9 to R11 are the caller's to lose in
// both conventions.
#ifdef GOOS_windows
#define NODE CX
#define ASK DX
#define HOOK R8
#else
#define NODE DI
#define ASK SI
#define HOOK DX
#endif

GLOBL ·evalFilterAddr(SB), NOPTR|RODATA, $8
DATA ·evalFilterAddr(SB)/8, $skeinEvalFilter(SB)

// See filter. Runs on C's stack and touches neither it nor Go's registers.
TEXT skeinEvalFilter(SB), NOSPLIT|NOFRAME, $0
	TESTL $0xff, ASK
	JEQ   call
	CMPB  filter_stopped(HOOK), $0
	JNE   call
	MOVQ  tensor_name(NODE), AX
	MOVQ  filter_nWords(HOOK), R9
	LEAQ  filter_words(HOOK), R10

names:
	TESTQ R9, R9
	JEQ   products
	MOVQ  AX, R11
	XORQ  (R10), R11
	ANDQ  8(R10), R11
	JEQ   call
	ADDQ  $16, R10
	DECQ  R9
	JMP   names

products:
	CMPB filter_byWeight(HOOK), $0
	JEQ  no
	CMPL tensor_op(NODE), $const_opMulMat
	JNE  no
	MOVQ tensor_src(NODE), AX
	MOVQ AX, R9
	SHRQ $const_filterShift, R9
	ANDQ $(const_filterKnown-1), R9
	MOVQ filter_known(HOOK)(R9*8), R10
	CMPQ R10, AX
	JEQ  no
	INCQ AX
	CMPQ R10, AX
	JEQ  yes

call:
	MOVQ filter_call(HOOK), AX
	JMP  AX

no:
	XORL AX, AX
	RET

yes:
	MOVL $1, AX
	RET
